use memtrace::event::*;
use memtrace::stacks::names::*;
use object::{Object, ObjectSection};
use std::{collections::HashMap, fs::File, sync::Arc, time::Instant};
fn main() {
    if read_symbols_if_asked().is_some() {
        return;
    }
    let n: usize = 400;
    for path in std::env::args().skip(1) {
        let real = std::fs::canonicalize(&path).unwrap();
        let bytes = std::fs::read(&real).unwrap();
        let p = object::File::parse(bytes.as_slice()).unwrap();
        let t = p.section_by_name(".text").unwrap();
        let off = t.file_range().unwrap().0;
        let id = p.build_id().unwrap().unwrap_or(&[]).to_vec();
        let step = t.size() / n as u64;
        let m = Arc::new(
            ModuleFile::file(
                File::open(&real).unwrap(),
                real.to_string_lossy().into_owned().into_bytes(),
                id.clone(),
                None,
            )
            .unwrap(),
        );
        let mut names = Names::new();
        let mut ms = vec![];
        let (mut named, mut lined, mut inl, mut total) = (0, 0, 0, 0);
        for batch in 0..3u32 {
            let mut ev: Vec<Event> = (0..n as u32)
                .map(|i| {
                    Event::Code(Code {
                        id: CodeId(batch * 10000 + i),
                        ip: 1,
                        module: vec![],
                        offset: off + step * u64::from(i) + u64::from(batch) * 7,
                        build_id: vec![],
                        symbols: vec![],
                        symbol_offset: 0,
                    })
                })
                .collect();
            if batch == 0 {
                ev.truncate(1);
            }
            let mods: HashMap<_, _> = ev
                .iter()
                .map(|e| match e {
                    Event::Code(c) => (c.id, Arc::clone(&m)),
                    _ => unreachable!(),
                })
                .collect();
            let b = Instant::now();
            names.name_all(&mut ev, &mods);
            ms.push(b.elapsed().as_secs_f64() * 1e3);
            for e in &ev {
                if let Event::Code(c) = e {
                    total += 1;
                    named += usize::from(!c.symbols.is_empty());
                    lined += usize::from(c.symbols.first().is_some_and(|s| s.line > 0));
                    inl += usize::from(c.symbols.len() > 1);
                }
            }
            if batch == 1 {
                if let Event::Code(c) = &ev[37] {
                    println!(
                        "  e.g. {:x} {:?}+{}",
                        c.offset,
                        c.symbols
                            .iter()
                            .map(|s| format!(
                                "{} {}:{}",
                                String::from_utf8_lossy(&s.name),
                                String::from_utf8_lossy(&s.file),
                                s.line
                            ))
                            .collect::<Vec<_>>(),
                        c.symbol_offset
                    );
                }
            }
        }
        println!(
            "{path}: {} MB, first {:.0} ms, next {n} {:.0} ms, next {n} {:.0} ms; of {total} named {named}, with line {lined}, inlined {inl}; cpu {:.0} ms {:?} {:?}",
            bytes.len() >> 20,
            ms[0],
            ms[1],
            ms[2],
            names.cpu_ns() as f64 / 1e6,
            names.failures(),
            names.hints().iter().map(|h| format!("{} {}", h.unnamed, h.line())).collect::<Vec<_>>()
        );
    }
}
