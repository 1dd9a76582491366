//! How much may be kept of what peers choose.

/// Bytes of topics, clients, buckets, connections and exchanges of one side: a million topics of one subscriber, or 65,535
/// messages in flight of each of ten.
const KEPT_BYTES_MAX: usize = 512 << 20;

/// What is kept of one side beside the packets that wait.
#[derive(Debug)]
pub struct Allowance {
    used: usize,
    most: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { used: 0, most: KEPT_BYTES_MAX }
    }
}

impl Allowance {
    pub const MIB: usize = KEPT_BYTES_MAX >> 20;

    #[cfg(test)]
    pub fn limited(most: usize) -> Self {
        Self { used: 0, most }
    }

    /// One thing more is kept.
    pub fn take(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
    }

    pub fn give_back(&mut self, bytes: usize) {
        self.used = self.used.saturating_sub(bytes);
    }

    /// There is more than can be told apart.
    pub fn use_up(&mut self) {
        self.used = usize::MAX;
    }

    /// Whether more is kept than may be: nothing more is to be added.
    pub fn is_used_up(&self) -> bool {
        self.used > self.most
    }
}
