//! CONNECTs of clients that have yet to prove who they are.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use foldhash::fast::FixedState;

use crate::packet::{Connect, ControlPacket, Property};

/// Bytes of a usual one at most. It is always held: those that are few are those that are long.
const USUAL: usize = 4 << 10;

/// Bytes of all longer ones together.
const LONG_TOTAL: usize = 16 << 20;

/// By connection, each as it stands on the wire: a decoded packet may take thirty times as much.
pub(super) struct HeldConnects {
    frames: HashMap<u32, Bytes, FixedState>,
    /// Of those that are longer than usual.
    long_bytes: usize,
}

impl HeldConnects {
    pub fn new(seed: u64) -> Self {
        Self { frames: HashMap::with_hasher(FixedState::with_seed(seed)), long_bytes: 0 }
    }

    /// Keeps `connect` but for its User Properties, which nobody asks for; gives it back if there is no room.
    pub fn hold(&mut self, connection: u32, mut connect: Box<Connect>) -> Result<(), Box<Connect>> {
        connect.properties.retain(|property| !matches!(property, Property::UserProperty(..)));
        let protocol = connect.protocol;
        let packet = ControlPacket::Connect(connect);
        let mut frame = BytesMut::new();
        let is_long = packet.encoded_len(protocol) > USUAL;
        let has_room = !is_long || self.long_bytes + packet.encoded_len(protocol) <= LONG_TOTAL;
        if !has_room || packet.encode(protocol, &mut frame).is_err() {
            let ControlPacket::Connect(connect) = packet else { unreachable!("it is one") };
            return Err(connect);
        }
        if is_long {
            self.long_bytes += frame.len();
        }
        self.frames.insert(connection, frame.freeze());
        Ok(())
    }

    pub fn take(&mut self, connection: u32) -> Option<Box<Connect>> {
        Connect::read(&self.remove(connection)?)
    }

    pub fn remove(&mut self, connection: u32) -> Option<Bytes> {
        let frame = self.frames.remove(&connection)?;
        if frame.len() > USUAL {
            self.long_bytes -= frame.len();
        }
        Some(frame)
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.frames.values().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Utf8String;

    fn connect(text: &str) -> Box<Connect> {
        match text.parse() {
            Ok(ControlPacket::Connect(connect)) => connect,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_held_comes_back_without_user_properties() {
        let mut held = HeldConnects::new(1);
        for text in [
            "CONNECT c session_expiry=5 auth_method=x auth_data=\"y\" will=t:\"bye\" will_qos=1 username=u password=p",
            "CONNECT \"\" v=3.1.1 keep_alive=7",
            "CONNECT c v=3.1 username=u",
        ] {
            let (plain, mut talkative) = (connect(text), connect(text));
            if plain.protocol.has_properties() {
                let property =
                    Property::UserProperty(Utf8String::new("a").unwrap(), Utf8String::new("b").unwrap());
                talkative.properties.0.extend(std::iter::repeat_n(property, 13_000));
            }
            held.hold(1, talkative).unwrap();
            assert!(held.bytes() < 100);
            assert_eq!(held.take(1), Some(plain));
            assert_eq!(held.take(1), None);
        }
    }

    #[test]
    fn long_ones_have_a_limit_in_all_and_do_not_keep_out_usual_ones() {
        let mut held = HeldConnects::new(1);
        let mut long = connect("CONNECT c will=t:x");
        long.will.as_mut().unwrap().payload = vec![0; 60_000].into();
        let refused = (0..).find(|&index| held.hold(index, long.clone()).is_err()).unwrap();
        assert!((LONG_TOTAL - 61_000..=LONG_TOTAL).contains(&held.bytes()));
        for index in 0..100 {
            held.hold(refused + index, connect("CONNECT c username=u password=p")).unwrap();
        }
        assert!(held.take(0).is_some());
        held.hold(0, long.clone()).unwrap();
        assert!(held.hold(refused + 100, long).is_err());
        for index in 0..refused + 100 {
            held.remove(index);
        }
        assert_eq!((held.bytes(), held.long_bytes), (0, 0));
    }
}
