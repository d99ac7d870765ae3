fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    let o = memtrace::live::probes::Options{follow:false,time_all:true,sizes:memtrace::live::probes::Sizes::of(false)};
    let mut p = match memtrace::live::probes::Probes::load(o) { Ok(p)=>p, Err(e)=>{ println!("{e:?}"); return } };
    println!("loaded in {:?}", t.elapsed());
    p.attach_to(pid).unwrap();
    println!("{:?}", p.missing);
    std::thread::sleep(std::time::Duration::from_secs(1));
    while let Some(i)=p.ring.next() { println!("{} {:?}", i.len(), &i[..]); }
    let s = p.slots.get(&0,0).unwrap().0;
    println!("{s:?}");
    for c in p.cpus.get(&0,0).unwrap().iter() { println!("{:?}", c.0); }
    println!("{:?}", std::fs::read_to_string(format!("/proc/{pid}/statm")));
}
