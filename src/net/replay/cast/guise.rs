//! How recorded clients present themselves to another server.

use crate::{
    net::{client::ClientOptions, url::MqttUrl},
    packet::{Connect, Disconnect, Properties, Property, Publish},
};

/// How clients present themselves, where not as recorded.
#[derive(Clone, Debug)]
pub(in crate::net::replay) struct Guise {
    pub target: MqttUrl,
    /// Keep alive and expiry intervals are divided by this.
    pub scale_intervals: Option<f64>,
}

impl Guise {
    /// How a recorded client connects here.
    pub fn options(&self, connect: Connect) -> ClientOptions {
        let mut url = self.target.clone();
        let (username, password) = match url.username {
            Some(_) => (None, None),
            None => {
                url.password = None;
                (connect.username.map(|name| name.as_str().to_owned()), connect.password)
            }
        };
        let mut options = ClientOptions {
            protocol: connect.protocol,
            clean_start: connect.clean_start,
            keep_alive: connect.keep_alive,
            username,
            password,
            will: connect.will,
            properties: connect.properties,
            ..ClientOptions::new(url, connect.client_identifier.as_str())
        };
        if let Some(speed) = self.scale_intervals {
            options.keep_alive = scaled(options.keep_alive.into(), speed, u16::MAX.into()) as u16;
            scale(&mut options.properties, speed);
            if let Some(will) = &mut options.will {
                scale(&mut will.properties, speed);
            }
        }
        options
    }

    /// A recorded message as it is sent here.
    pub fn message(&self, publish: &mut Publish) {
        if let Some(speed) = self.scale_intervals {
            scale(&mut publish.properties, speed);
        }
    }

    /// A recorded DISCONNECT as it is sent here.
    pub fn disconnect(&self, disconnect: &mut Disconnect) {
        if let Some(speed) = self.scale_intervals {
            scale(&mut disconnect.properties, speed);
        }
    }
}

/// Divides intervals by `speed`.
fn scale(properties: &mut Properties, speed: f64) {
    for property in &mut properties.0 {
        match property {
            // The largest means for ever.
            Property::SessionExpiryInterval(u32::MAX) => {}
            Property::SessionExpiryInterval(seconds)
            | Property::WillDelayInterval(seconds)
            | Property::MessageExpiryInterval(seconds) => {
                *seconds = scaled(*seconds, speed, u32::MAX - 1);
            }
            _ => {}
        }
    }
}

/// Rounded up to whole seconds, at most `max`; 0 keeps its meaning.
fn scaled(seconds: u32, speed: f64, max: u32) -> u32 {
    let scaled = (f64::from(seconds) / speed).ceil();
    if scaled >= f64::from(max) { max } else { scaled as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_keep_their_meaning_at_any_speed() {
        let scaled_by = |speed| [0, 1, 60, 40_000].map(|seconds| scaled(seconds, speed, 65_535));
        assert_eq!(scaled_by(2.0), [0, 1, 30, 20_000]);
        assert_eq!(scaled_by(0.5), [0, 2, 120, 65_535]);
        assert_eq!(scaled_by(1000.0), [0, 1, 1, 40]);
    }
}
