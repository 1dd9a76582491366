//! URLs of brokers that callers name.

use std::path::{Path, PathBuf};

use super::{Control, fields::Fields};
use crate::{config::file_below, net::MqttUrl};

impl Control {
    /// A URL that a request has in `field`. Over the API it names files of the settings' folder alone: whoever may have us
    /// connect somewhere is not one who may use, or learn of, every file of this machine.
    pub(super) fn broker_url(&self, fields: &mut Fields, field: &str, text: &str) -> Option<MqttUrl> {
        let mut url: MqttUrl = fields.keep(field, text.parse())?;
        if let Some(folder) = &self.parts().folder {
            let trust = &mut url.trust;
            for path in [&mut trust.cafile, &mut trust.cert, &mut trust.key].into_iter().flatten() {
                match path.to_str().and_then(|path| below(folder, path)) {
                    Some(real) => *path = real,
                    None => {
                        fields.refuse(field, "names a file that is not one below the settings' folder");
                        return None;
                    }
                }
            }
        }
        Some(url)
    }
}

/// An absolute path may be one below the folder, too.
fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let folder = Path::new(".").join(folder).canonicalize().ok()?;
    let relative = match Path::new(path).canonicalize() {
        Ok(real) if Path::new(path).is_absolute() => real.strip_prefix(&folder).ok()?.to_str()?.to_owned(),
        _ => path.to_owned(),
    };
    file_below(&folder, &relative).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_folder_are_found_however_they_are_named_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("settings"), folder.path().join("outside.crt"));
        std::fs::create_dir(&inside).unwrap();
        let file = inside.join("ca.crt");
        for path in [&file, &outside] {
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink(&outside, inside.join("link.crt")).unwrap();
        let real = file.canonicalize().unwrap();
        assert_eq!(below(&inside, "ca.crt"), Some(real.clone()));
        assert_eq!(below(&inside, file.to_str().unwrap()), Some(real));
        for path in ["none.crt", "../outside.crt", outside.to_str().unwrap(), "link.crt", "/etc/hostname"] {
            assert_eq!(below(&inside, path), None, "{path}");
        }
    }
}
