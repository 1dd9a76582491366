//! Ethernet frames around what is written: IP, TCP and UDP with valid checksums.

use std::net::{IpAddr, SocketAddr};

/// What a segment says beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    Syn,
    SynAck,
    Ack,
    /// Bytes.
    Push,
    Fin,
    Rst,
}

/// The most bytes of a segment between `from` and somebody else on an Ethernet.
pub fn segment_len_max(from: &SocketAddr) -> usize {
    match from {
        SocketAddr::V4(_) => 1460,
        SocketAddr::V6(_) => 1440,
    }
}

/// Appends a TCP segment in its Ethernet frame. Both addresses are of one family.
pub fn put_segment(
    [from, to]: [&SocketAddr; 2],
    [sequence, acknowledged]: [u32; 2],
    flags: Flags,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    /// Maximum Segment Size, no-operation, and a window that counts in units of 128 bytes.
    const OPTIONS: [u8; 8] = [2, 4, 0, 0, 1, 3, 3, 7];
    let (bits, has_options) = match flags {
        Flags::Syn => (0x02, true),
        Flags::SynAck => (0x12, true),
        Flags::Ack => (0x10, false),
        Flags::Push => (0x18, false),
        Flags::Fin => (0x11, false),
        Flags::Rst => (0x14, false),
    };
    let header_len = if has_options { 20 + OPTIONS.len() } else { 20 };
    let start = put_headers(from, to, 6, header_len + payload.len(), out);
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    let acknowledged = if flags == Flags::Syn { 0 } else { acknowledged };
    out.extend_from_slice(&acknowledged.to_be_bytes());
    out.extend_from_slice(&[(header_len as u8 / 4) << 4, bits]);
    out.extend_from_slice(&[0xFF, 0xFF, 0, 0, 0, 0]);
    if has_options {
        let mut options = OPTIONS;
        options[2..4].copy_from_slice(&(segment_len_max(from) as u16).to_be_bytes());
        out.extend_from_slice(&options);
    }
    out.extend_from_slice(payload);
    let sum = checksum(pseudo_header(from, to, 6, out.len() - start), &out[start..]);
    out[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}

/// Appends a UDP datagram in its Ethernet frame. Both addresses are of one family.
pub fn put_datagram([from, to]: [&SocketAddr; 2], payload: &[u8], out: &mut Vec<u8>) {
    let len = 8 + payload.len();
    let start = put_headers(from, to, 17, len, out);
    out.extend_from_slice(&from.port().to_be_bytes());
    out.extend_from_slice(&to.port().to_be_bytes());
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    // Zero would say that there is none.
    let sum = match checksum(pseudo_header(from, to, 17, len), &out[start..]) {
        0 => 0xFFFF,
        sum => sum,
    };
    out[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
}

/// Ethernet and IP; returns where what they carry begins.
fn put_headers(from: &SocketAddr, to: &SocketAddr, protocol: u8, len: usize, out: &mut Vec<u8>) -> usize {
    // Made up, as the bit for "locally administered" says; the same on both sides, for clients are
    // servers to nobody.
    out.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[8, 0]);
            let start = out.len();
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(20 + len as u16).to_be_bytes());
            // Not fragmented, so it needs no identification.
            out.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            let sum = checksum(0, &out[start..]);
            out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            out.extend_from_slice(&[0x86, 0xDD, 0x60, 0, 0, 0]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, 64]);
            out.extend_from_slice(&octets(from));
            out.extend_from_slice(&octets(to));
        }
    }
    out.len()
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What a checksum of TCP and UDP covers of the IP header.
fn pseudo_header(from: &SocketAddr, to: &SocketAddr, protocol: u8, len: usize) -> u32 {
    let mut sum = u32::from(protocol) + len as u32;
    for address in [from.ip(), to.ip()] {
        match (address, from.is_ipv4() && to.is_ipv4()) {
            (IpAddr::V4(address), true) => sum += sum_of(&address.octets()),
            (address, _) => sum += sum_of(&octets(address)),
        }
    }
    sum
}

/// RFC 1071, beginning with what was summed before.
fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let mut sum = before + sum_of(bytes);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// Of words of two bytes; those of a whole frame do not overflow.
fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum()
}
