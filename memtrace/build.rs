//! placeholder
fn main(){
 println!("cargo:rustc-env=MEMTRACE_BPF_OBJECT_PATH=/work/main/target/bpf/bpfel-unknown-none/release/memtrace");
}
