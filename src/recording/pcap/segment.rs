//! The TCP segment in a captured frame: link layer and IP taken off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the frames of a capture begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// BSD loopback: an address family in four bytes of either order.
    Loopback,
    Ethernet,
    /// IP itself.
    Raw,
    /// What Linux captures on the device `any`.
    LinuxCooked,
    LinuxCooked2,
}

impl LinkType {
    /// By its number in files; `None` for one that is not read here.
    pub fn of(number: u16) -> Option<Self> {
        match number {
            0 | 108 => Some(Self::Loopback),
            1 => Some(Self::Ethernet),
            // 12 and 14 are what some systems wrote for raw IP.
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::LinuxCooked),
            276 => Some(Self::LinuxCooked2),
            _ => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledged: Option<u32>,
    pub is_syn: bool,
    pub is_fin: bool,
    pub is_rst: bool,
    /// As far as it was captured.
    pub payload: &'a [u8],
    /// Bytes of the payload that the capture left out at its end.
    pub cut: usize,
}

impl Segment<'_> {
    /// The sequence number behind the payload, where a FIN is.
    pub fn end(&self) -> u32 {
        // Both are at most 64 KiB, but for what a capture before segmentation says.
        self.sequence
            .wrapping_add(u32::from(self.is_syn))
            .wrapping_add((self.payload.len() + self.cut) as u32)
    }
}

/// Why a frame holds no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSegment {
    /// Another protocol.
    Other,
    /// A part of a fragmented datagram.
    Fragment,
    /// Headers that are cut or make no sense.
    Unreadable,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
/// 802.1Q, 802.1ad and what came before it.
const VLAN: [u16; 3] = [0x8100, 0x88A8, 0x9100];
const TCP: u8 = 6;

/// Takes the headers off `frame`, which was `original_len` bytes long before the capture cut it.
pub fn segment(link: LinkType, frame: &[u8], original_len: usize) -> Result<Segment<'_>, NoSegment> {
    let mut rest = Rest(frame);
    let ether_type = match link {
        LinkType::Raw => None,
        LinkType::Loopback => {
            let family = rest.take::<4>()?;
            // 2 is IPv4 everywhere; IPv6 is 10, 24, 28 or 30.
            match u32::from_le_bytes(family).min(u32::from_be_bytes(family)) {
                2 | 10 | 24 | 28 | 30 => None,
                _ => return Err(NoSegment::Other),
            }
        }
        LinkType::Ethernet => {
            rest.skip(12)?;
            Some(rest.u16()?)
        }
        LinkType::LinuxCooked => {
            rest.skip(14)?;
            Some(rest.u16()?)
        }
        LinkType::LinuxCooked2 => {
            let protocol = rest.u16()?;
            rest.skip(18)?;
            Some(protocol)
        }
    };
    if let Some(mut ether_type) = ether_type {
        while VLAN.contains(&ether_type) {
            rest.skip(2)?;
            ether_type = rest.u16()?;
        }
        if ether_type != IPV4 && ether_type != IPV6 {
            return Err(NoSegment::Other);
        }
    }
    let cut = original_len.saturating_sub(frame.len());
    match rest.0.first().ok_or(NoSegment::Unreadable)? >> 4 {
        4 => ipv4(rest, cut),
        6 => ipv6(rest, cut),
        _ => Err(NoSegment::Unreadable),
    }
}

/// `cut` bytes behind `packet` were not captured.
fn ipv4(packet: Rest<'_>, cut: usize) -> Result<Segment<'_>, NoSegment> {
    let mut rest = packet;
    let [first, _, total_high, total_low] = rest.take()?;
    let [_, _, flags_high, offset_low, _, protocol, _, _] = rest.take()?;
    let addresses = [rest.take::<4>()?, rest.take()?].map(|address| IpAddr::from(Ipv4Addr::from(address)));
    let header_len = usize::from(first & 0x0F) * 4;
    rest.skip(header_len.checked_sub(20).ok_or(NoSegment::Unreadable)?)?;
    if protocol != TCP {
        return Err(NoSegment::Other);
    }
    // More Fragments, or an offset.
    if flags_high & 0x3F != 0 || offset_low != 0 {
        return Err(NoSegment::Fragment);
    }
    let len = match u16::from_be_bytes([total_high, total_low]) {
        // Captured before the network card cut it into segments.
        0 => rest.0.len() + cut,
        total => usize::from(total).checked_sub(header_len).ok_or(NoSegment::Unreadable)?,
    };
    tcp(rest, len, addresses)
}

fn ipv6(packet: Rest<'_>, cut: usize) -> Result<Segment<'_>, NoSegment> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let mut rest = packet;
    rest.skip(4)?;
    let len = rest.u16()?;
    let [mut next, _] = rest.take()?;
    let addresses = [rest.take::<16>()?, rest.take()?].map(|address| IpAddr::from(Ipv6Addr::from(address)));
    let mut len = match len {
        0 => rest.0.len() + cut,
        len => usize::from(len),
    };
    loop {
        let extension_len = match next {
            TCP => return tcp(rest, len, addresses),
            FRAGMENT => return Err(NoSegment::Fragment),
            HOP_BY_HOP | ROUTING | DESTINATION => {
                8 + usize::from(*rest.0.get(1).ok_or(NoSegment::Unreadable)?) * 8
            }
            AUTHENTICATION => 8 + usize::from(*rest.0.get(1).ok_or(NoSegment::Unreadable)?) * 4,
            _ => return Err(NoSegment::Other),
        };
        next = rest.0[0];
        rest.skip(extension_len)?;
        len = len.checked_sub(extension_len).ok_or(NoSegment::Unreadable)?;
    }
}

/// `len` counts header and payload as they were sent; what is behind it is padding.
fn tcp(packet: Rest<'_>, len: usize, [source, destination]: [IpAddr; 2]) -> Result<Segment<'_>, NoSegment> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    let mut rest = packet;
    let (source_port, destination_port) = (rest.u16()?, rest.u16()?);
    let sequence = u32::from_be_bytes(rest.take()?);
    let acknowledged = u32::from_be_bytes(rest.take()?);
    let [offset, flags] = rest.take()?;
    rest.skip(6)?;
    let header_len = usize::from(offset >> 4) * 4;
    rest.skip(header_len.checked_sub(20).ok_or(NoSegment::Unreadable)?)?;
    let payload_len = len.checked_sub(header_len).ok_or(NoSegment::Unreadable)?;
    let payload = &rest.0[..payload_len.min(rest.0.len())];
    Ok(Segment {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        sequence,
        acknowledged: (flags & ACK != 0).then_some(acknowledged),
        is_syn: flags & SYN != 0,
        is_fin: flags & FIN != 0,
        is_rst: flags & RST != 0,
        payload,
        cut: payload_len - payload.len(),
    })
}

/// What is left of a frame.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoSegment> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NoSegment::Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, NoSegment> {
        self.take().map(u16::from_be_bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), NoSegment> {
        self.0 = self.0.get(count..).ok_or(NoSegment::Unreadable)?;
        Ok(())
    }
}
