//! Writing a recording as NDJSON.

use std::io::{self, Write};

use super::END;
use crate::recording::{
    Connections, Event, EventKind, RecordingInfo,
    json::{Members, write_event, write_head_line},
};

/// Writes recordings; memory grows with the number of open connections.
pub struct NdjsonWriter<W> {
    out: W,
}

impl<W: Write> NdjsonWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes the whole file; `events` is called once.
    ///
    /// # Errors
    /// Those of the events, or of the writer as one.
    pub fn write<I, E>(
        mut self,
        info: &RecordingInfo,
        mut events: impl FnMut() -> Result<I, E>,
    ) -> Result<W, E>
    where
        I: Iterator<Item = Result<Event, E>>,
        E: From<io::Error>,
    {
        let mut line = Vec::new();
        write_head_line(info, &mut line);
        self.end_line(&mut line)?;
        let mut connections = Connections::new();
        let mut written = 0_u64;
        for event in events()? {
            let event = event?;
            let seen = connections.follow(&event);
            write_event(&event, seen.as_ref(), &connections, &mut line);
            self.end_line(&mut line)?;
            if matches!(event.kind, EventKind::Close(_)) {
                connections.forget_client(event.connection);
            }
            written += 1;
        }
        let mut members = Members::begin(&mut line);
        members.text("kind", END);
        members.plain("events", written);
        members.end();
        self.end_line(&mut line)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_line(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        self.out.write_all(line)?;
        line.clear();
        Ok(())
    }
}
