use everhold_sim::{trace, world::*};
use std::time::{Duration, Instant};
fn main() {
    if std::env::var("LOG").is_ok() {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_env("LOG")).without_time().init();
    }
    let seed = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let secs: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(30);
    let tick: u64 = std::env::args().nth(3).and_then(|s| s.parse().ok()).unwrap_or(1);
    trace::begin(None);
    let mut w = World::new(Shape { seed, nodes: 5, spares: 0, zones: 3, tick: Duration::from_millis(tick), latency: Duration::from_millis(3), sync_ms: 2 });
    for c in 1..=3 { w.spawn_host(&format!("c{c}"), || async { std::future::pending().await }); }
    let start = Instant::now();
    while w.elapsed() < Duration::from_secs(secs) {
        w.step().unwrap();
        if w.elapsed().as_millis() % 5000 == 0 {
            let m = w.oracle().map();
            println!("{:?} real {:?} nodes {} disks {} pgs {} applied {} left {:?} hash {:x?}", w.elapsed(), start.elapsed(), m.nodes.len(), m.disks.len(), m.pgs.len(), w.oracle().applied(), w.oracle().convergence(5), trace::summary());
        }
    }
    println!("{:?}", w.oracle().violations());
}
