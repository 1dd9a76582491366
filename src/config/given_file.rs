//! Files that callers of the API name for messages.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::{SETTINGS_FILE, file_below, read_file_below};

/// How files begin to hold what nobody is to be sent: keys, and hashes of passwords.
const SECRET_CONTENT: [&[u8]; 3] = [b"PRIVATE KEY-----", b"$argon2", b":$7$"];

/// Reads a file for callers of the API: only one below the folder, wherever links lead, and none that is hidden, nor
/// settings and what else holds secrets.
///
/// # Errors
/// Why it is not read, for people.
pub fn read_given_file(folder: &Path, secret_files: &[PathBuf], path: &str) -> Result<Bytes, String> {
    let secret =
        || format!("{path:?} is not for messages: settings, keys, passwords and hidden files hold secrets");
    let is_hidden = |part: Component<'_>| match part {
        Component::Normal(name) => name.as_encoded_bytes().starts_with(b".") || *name == *SETTINGS_FILE,
        _ => false,
    };
    if Path::new(path).components().any(is_hidden) {
        return Err(secret());
    }
    let real = file_below(folder, path)?;
    let is_same = |secret: &PathBuf| secret.canonicalize().is_ok_and(|secret| secret == real);
    if real.file_name().is_some_and(|name| is_hidden(Component::Normal(name)))
        || secret_files.iter().any(is_same)
    {
        return Err(secret());
    }
    let bytes = read_file_below(folder, path)?;
    let holds = |secret: &&[u8]| bytes.windows(secret.len()).any(|part| part == *secret);
    if SECRET_CONTENT.iter().any(holds) { Err(secret()) } else { Ok(bytes) }
}
