//! Events that repeat: each place in the program may write a few lines at once and then one in a while; what comes in
//! between is counted, and the count is told with a later line.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// One place may write so many warnings or errors at once: enough to see who is concerned.
const WARNINGS: u32 = 5;
/// One place may write so many other lines at once: a cluster of many nodes and disks has that many beginnings.
const NOTES: u32 = 40;
/// After that, each place may write one line in this time.
const PAUSE: Duration = Duration::from_secs(20);
/// What was counted is told after so long, with whatever line comes then.
const TELL_AFTER: Duration = Duration::from_secs(60);

/// Writes events as `inner` does, but spares those that repeat.
pub(super) struct Sparing<F> {
    inner: F,
    repeats: Mutex<Repeats>,
}

impl<F> Sparing<F> {
    pub(super) fn new(inner: F) -> Self {
        Sparing { inner, repeats: Mutex::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for Sparing<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let text = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        };
        let metadata = event.metadata();
        let told = self.repeats.lock().hear(metadata, text, Instant::now());
        // Nothing is written of an event that is spared.
        let Some(counted) = told else { return Ok(()) };
        self.inner.format_event(ctx, writer.by_ref(), event)?;
        for Counted { times, seconds, message } in counted {
            writeln!(writer, "{times} more in {seconds} s were not written: {message}")?;
        }
        Ok(())
    }
}

/// What is known of each place that has written.
#[derive(Default)]
struct Repeats(HashMap<Identifier, Place>);

struct Place {
    /// Lines that it may write now.
    lines: u32,
    /// When it last got one.
    since: Instant,
    /// Spared since the last line, since when, and what the first of them said.
    spared: Option<Spared>,
}

struct Spared {
    times: u64,
    since: Instant,
    message: String,
}

/// Events that were not written.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    times: u64,
    seconds: u64,
    message: String,
}

impl Repeats {
    /// Takes note of an event: `None` if it is not to be written, else the counts that are to be told with it.
    fn hear(
        &mut self,
        of: &Metadata<'_>,
        message: impl FnOnce() -> String,
        now: Instant,
    ) -> Option<Vec<Counted>> {
        let lines_max = match *of.level() {
            Level::ERROR | Level::WARN => WARNINGS,
            Level::INFO => NOTES,
            // Who asks for these wants them all.
            _ => return Some(Vec::new()),
        };
        if self.admits(of.callsite(), lines_max, message, now) {
            Some(self.due(&of.callsite(), now))
        } else {
            None
        }
    }

    /// Whether the place may write a line; if not, the event is counted.
    fn admits(
        &mut self,
        place: Identifier,
        lines_max: u32,
        message: impl FnOnce() -> String,
        now: Instant,
    ) -> bool {
        let new = || Place { lines: lines_max, since: now, spared: None };
        let place = self.0.entry(place).or_insert_with(new);
        let pauses = now.saturating_duration_since(place.since).as_secs() / PAUSE.as_secs();
        if pauses > 0 {
            let gained = u32::try_from(pauses).unwrap_or(u32::MAX);
            place.lines = place.lines.saturating_add(gained).min(lines_max);
            place.since = now;
        }
        if place.lines > 0 {
            place.lines -= 1;
            return true;
        }
        let first = || Spared { times: 0, since: now, message: message() };
        place.spared.get_or_insert_with(first).times += 1;
        false
    }

    /// The counts that are to be told: that of the place that writes, and those that waited long enough.
    fn due(&mut self, writing: &Identifier, now: Instant) -> Vec<Counted> {
        let mut due = Vec::new();
        for (place, known) in &mut self.0 {
            let waited = known.spared.as_ref().map(|s| now.saturating_duration_since(s.since));
            if !waited.is_some_and(|waited| place == writing || waited >= TELL_AFTER) {
                continue;
            }
            due.extend(known.spared.take().map(|Spared { times, since, message }| Counted {
                times,
                seconds: now.saturating_duration_since(since).as_secs(),
                message,
            }));
        }
        due
    }
}

/// The text of an event, without its fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A warning that repeats is written a few times; another one is not kept back by that.
    #[test]
    fn what_repeats_is_not_written_again() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Sparing::new(tracing_subscriber::fmt::format()))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            for turn in 0..1000 {
                tracing::warn!(turn, "a node is silent");
            }
            tracing::warn!("another thing");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        assert_eq!(text.matches("a node is silent").count(), WARNINGS as usize, "{text}");
        assert_eq!(text.matches("another thing").count(), 1, "{text}");
    }

    /// After a pause the place may write again, and tells what it spared; when it is silent, another place tells it.
    #[test]
    fn what_was_spared_is_counted_and_told() {
        let places = places();
        let [one, other] = places.lock()[..2].try_into().unwrap();
        let mut repeats = Repeats::default();
        let begin = Instant::now();
        let mut hear = |place: &'static Metadata<'static>, seconds| {
            repeats.hear(place, || place.target().into(), begin + Duration::from_secs(seconds))
        };
        for _ in 0..WARNINGS {
            assert_eq!(hear(one, 0), Some(vec![]));
        }
        assert_eq!(hear(one, 1), None);
        assert_eq!(hear(one, 2), None);
        let counted = |times, seconds| Counted { times, seconds, message: "one".into() };
        assert_eq!(hear(one, 21), Some(vec![counted(2, 20)]));
        assert_eq!(hear(one, 22), None);
        assert_eq!(hear(other, 30), Some(vec![]));
        assert_eq!(hear(other, 90), Some(vec![counted(1, 68)]));
    }

    /// The metadata of two places.
    fn places() -> Arc<Mutex<Vec<&'static Metadata<'static>>>> {
        struct Seen(Arc<Mutex<Vec<&'static Metadata<'static>>>>);
        impl<S: Subscriber> tracing_subscriber::Layer<S> for Seen {
            fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
                self.0.lock().push(event.metadata());
            }
        }
        let seen = Arc::default();
        let log = tracing_subscriber::layer::SubscriberExt::with(
            tracing_subscriber::registry(),
            Seen(Arc::clone(&seen)),
        );
        tracing::subscriber::with_default(log, || {
            tracing::warn!(target: "one", "x");
            tracing::warn!(target: "other", "y");
        });
        seen
    }
}
