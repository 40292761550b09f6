//! x
use everhold_sim::{faults::Kind, plan::Plan, run, trace};
use std::time::Instant;
fn main() {
    if std::env::var("LOG").is_ok() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("LOG"))
            .without_time()
            .init();
    }
    let range = std::env::args().nth(1).unwrap();
    let (a, b): (u64, u64) = match range.split_once("..") {
        Some((a, b)) => (a.parse().unwrap(), b.parse().unwrap()),
        None => (range.parse().unwrap(), range.parse().unwrap()),
    };
    for seed in a..=b {
        trace::begin(std::env::var("TRACE").ok().map(|p| std::fs::File::create(p).unwrap()));
        let start = Instant::now();
        let mut plan = Plan::of(seed);
        if let Some(k) = std::env::args().nth(2) {
            if k == "none" {
                plan.budget.kinds.clear()
            } else {
                plan.budget.kinds = Kind::ALL
                    .into_iter()
                    .filter(|x| k.split(',').any(|y| y == x.to_string()))
                    .collect()
            }
        }
        let o = run::run(&plan);
        println!(
            "seed {seed} nodes {} {:?} sim {:.0} conv {:.0} real {:?} {:016x} {} {:?} {:?}",
            plan.shape.nodes,
            plan.budget.kinds,
            o.simulated_seconds,
            o.converged_seconds,
            start.elapsed(),
            o.hash,
            o.events,
            o.operations,
            o.faults
        );
        for v in &o.violations {
            println!("  VIOLATION {}: {}", v.invariant, v.detail);
            if std::env::var("H").is_ok() {
                for h in &v.history {
                    println!("      {h}")
                }
            }
        }
    }
}
