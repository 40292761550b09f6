//! Counts of what a node did since its start, and their Prometheus text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted.
#[derive(Default)]
pub(crate) struct Counters {
    /// Requests of any kind.
    pub(crate) requests: Counter,
    /// Answers that were errors.
    pub(crate) errors: Counter,
    /// Requests shed because too much was under way.
    pub(crate) shed: Counter,
    /// Blocks stored.
    pub(crate) blocks_put: Counter,
    /// Bytes of these.
    pub(crate) bytes_put: Counter,
    /// Blocks or parts of blocks read.
    pub(crate) blocks_got: Counter,
    /// Bytes of these.
    pub(crate) bytes_got: Counter,
    /// Reads that found a bad copy.
    pub(crate) checksum_errors: Counter,
}

impl Counters {
    /// The counts as Prometheus text.
    pub(crate) fn render(&self, out: &mut String) {
        let all: [(&str, &str, &Counter); 8] = [
            ("requests", "requests of any kind", &self.requests),
            ("errors", "answers that were errors", &self.errors),
            ("shed", "requests shed because too much was under way", &self.shed),
            ("blocks_put", "blocks stored", &self.blocks_put),
            ("block_bytes_put", "bytes of blocks stored", &self.bytes_put),
            ("blocks_got", "blocks or parts of blocks read", &self.blocks_got),
            ("block_bytes_got", "bytes of blocks read", &self.bytes_got),
            ("checksum_errors", "reads that found a bad copy", &self.checksum_errors),
        ];
        for (name, help, counter) in all {
            metric(out, &format!("{name}_total"), help, "counter", counter.get() as f64);
        }
    }
}

/// Writes one metric for each value of a label.
pub(crate) fn labelled(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    label: &str,
    values: impl IntoIterator<Item = (String, f64)>,
) {
    // Writing to a String cannot fail.
    let _infallible = write!(out, "# HELP everhold_{name} {help}\n# TYPE everhold_{name} {kind}\n");
    for (value, number) in values {
        let _infallible = writeln!(out, "everhold_{name}{{{label}=\"{value}\"}} {number}");
    }
}

/// Writes one metric without labels.
pub(crate) fn metric(out: &mut String, name: &str, help: &str, kind: &str, value: f64) {
    // Writing to a String cannot fail.
    let _infallible = write!(
        out,
        "# HELP everhold_{name} {help}\n# TYPE everhold_{name} {kind}\neverhold_{name} {value}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_labels() {
        let mut text = String::new();
        let values = [("scrub".to_owned(), 2.0), ("repair".to_owned(), 0.5)];
        labelled(&mut text, "shed", "sent away", "counter", "priority", values);
        let expected = "# HELP everhold_shed sent away\n# TYPE everhold_shed counter\n\
                        everhold_shed{priority=\"scrub\"} 2\neverhold_shed{priority=\"repair\"} 0.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn renders_prometheus_text() {
        let counters = Counters::default();
        counters.blocks_put.add(3);
        let mut text = String::new();
        counters.render(&mut text);
        assert!(
            text.contains(
                "# TYPE everhold_blocks_put_total counter\neverhold_blocks_put_total 3\n"
            )
        );
    }
}
