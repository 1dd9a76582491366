//! The bytes of MQTT that attackers and innocent clients send.

/// MQTT 3.1.1, Clean Session, without a keep alive.
pub fn connect(name: &str, keep_alive: u16) -> Vec<u8> {
    let [high, low] = keep_alive.to_be_bytes();
    packet(0x10, &[b"\x00\x04MQTT\x04\x02", &[high, low][..], &text(name)].concat())
}

pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 1][..], &text(filter), &[qos]].concat())
}

/// Of QoS 1 if there is an identifier.
pub fn publish(topic: &str, identifier: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let first = if identifier.is_some() { 0x32 } else { 0x30 };
    let identifier = identifier.map(u16::to_be_bytes);
    packet(first, &[&text(topic)[..], identifier.as_ref().map_or(&[], |bytes| &bytes[..]), payload].concat())
}

pub fn puback(identifier: [u8; 2]) -> [u8; 4] {
    [0x40, 2, identifier[0], identifier[1]]
}

/// The size of the packet that `bytes` begin with and where its body starts, if they tell.
pub fn size(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut remaining = 0;
    for at in 1..=4 {
        let byte = *bytes.get(at)?;
        remaining |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Some((at + 1 + remaining, at + 1));
        }
    }
    None
}

fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("short");
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    loop {
        let more = left > 0x7F;
        packet.push((left & 0x7F) as u8 | u8::from(more) << 7);
        left >>= 7;
        if !more {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}
