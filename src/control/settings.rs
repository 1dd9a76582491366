//! The rpcs of `Admin` about settings: what is in force, and putting others into force.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{sync::Mutex, task::spawn_blocking};

use super::{Control, ControlError, Proxies, fields::Fields, pb};
use crate::{
    config::{Config, InForce, PASSWORD_FILE, SETTINGS, Setting, Value},
    fault::ChaosError,
    field::BadField,
    log,
    mock::MockError,
    net::{
        PreparedMocks, WebhookError,
        tls::{TlsError, TlsFiles, check, reload},
    },
};

/// The settings of a server.
pub struct SettingsInForce {
    /// What is in force of settings that take effect at a start.
    began_with: Config,
    /// What was read last, and is in force of the others. Locked while it is replaced.
    last: Mutex<Config>,
}

/// What came of settings that were read again.
#[derive(Debug)]
pub struct ReadAgain {
    pub config: Config,
    /// Keys of what has changed since the start and waits for the next one.
    pub at_next_start: Vec<String>,
}

type ReadFiles = fn(&[Arc<dyn TlsFiles>]) -> Result<(), TlsError>;

/// What is done about the files of certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificates {
    Leave,
    Reload,
}

impl SettingsInForce {
    pub fn new(config: Config) -> Self {
        Self { last: Mutex::new(config.clone()), began_with: config }
    }
}

impl Control {
    pub async fn get_config(
        &self,
        request: pb::GetConfigRequest,
    ) -> Result<pb::GetConfigResponse, ControlError> {
        let settings = self.settings()?;
        let last = settings.last.lock().await;
        let section = &request.section;
        let is_meant = |key: &str| {
            let rest = key.strip_prefix(&**section);
            section.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let pairs = settings.began_with.in_force.iter().zip(&last.in_force);
        let shown = pairs.filter(|(began, _)| is_meant(began.key)).map(|(began, last)| setting(began, last));
        let shown: Vec<_> = shown.collect();
        if shown.is_empty() {
            return Err(ControlError::bad_field("section", format_args!("no setting is below {section:?}")));
        }
        Ok(pb::GetConfigResponse { settings: shown, file: file_name(&last), warnings: last.warnings.clone() })
    }

    pub async fn apply_config(
        &self,
        request: pb::ApplyConfigRequest,
    ) -> Result<pb::ApplyConfigResponse, ControlError> {
        let control = self.clone();
        // A caller that goes away leaves nothing half done.
        match tokio::spawn(async move { control.apply(request).await }).await {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    async fn apply(&self, request: pb::ApplyConfigRequest) -> Result<pb::ApplyConfigResponse, ControlError> {
        let settings = self.settings()?;
        let mut last = settings.last.lock().await;
        let name = if request.name.is_empty() { "config".to_owned() } else { request.name };
        let began_with = settings.began_with.clone();
        // It reads files.
        let made = super::blocking(move || Ok(began_with.with_text(&name, &request.yaml))).await?;
        let config = made.map_err(ControlError::BadConfig)?;
        // Files that the URLs of proxies name, too, have to be below the folder.
        let mut fields = Fields::new();
        for (position, proxy) in config.mqtt.proxies.iter().enumerate() {
            self.broker_url(&mut fields, &format!("mqtt.proxies[{position}].upstream"), &proxy.upstream);
        }
        fields.finish()?;
        let changes = changes(&last, &config);
        let warnings = config.warnings.clone();
        let certificates = if request.validate_only {
            self.check_settings(&config)?;
            self.check_certificates().await.map_err(bad_certificates)?
        } else {
            let certificates = self.put_into_force(&last, &config, Certificates::Reload).await?;
            *last = config;
            certificates
        };
        Ok(pb::ApplyConfigResponse { changes, warnings, certificates: certificates as u32 })
    }

    /// Reads the settings' file again, and puts into force what of it can change while a server runs.
    ///
    /// # Errors
    /// Why it is refused; then nothing has changed.
    pub async fn read_settings_again(&self) -> Result<ReadAgain, ControlError> {
        let settings = self.settings()?;
        let mut last = settings.last.lock().await;
        let began_with = settings.began_with.clone();
        let made = super::blocking(move || Ok(began_with.read_again())).await?;
        let config = made.map_err(ControlError::BadConfig)?;
        if config.file.is_none() && settings.began_with.file.is_some() {
            return Err(ControlError::SettingsGone);
        }
        self.put_into_force(&last, &config, Certificates::Leave).await?;
        let at_next_start = changes(&settings.began_with, &config)
            .into_iter()
            .filter(|change| change.effect() == pb::ConfigEffect::AtNextStart)
            .map(|change| change.key)
            .collect();
        *last = config.clone();
        Ok(ReadAgain { config, at_next_start })
    }

    /// Puts what of the settings can change while a server runs into force: the log's level, users and access rules, tokens of
    /// callers, mocks, in the place of all there are, and proxies, webhooks and rules of chaos, beside those made over the API.
    /// All of it, or nothing; only connections through proxies that are put back are not.
    async fn put_into_force(
        &self,
        before: &Config,
        config: &Config,
        certificates: Certificates,
    ) -> Result<usize, ControlError> {
        let prepared = self.check_settings(config)?;
        let (mocks, webhooks, chaos) = (self.mocks()?, self.webhooks()?, self.chaos()?);
        let read = match certificates {
            Certificates::Reload => self.reload_certificates().await.map_err(bad_certificates)?,
            Certificates::Leave => 0,
        };
        // What can fail though it was checked, when an address is taken or somebody makes a thing of such an id meanwhile.
        let changed = async {
            self.proxies()?.set(&config.mqtt.proxies).await?;
            webhooks.replace_all(config.mqtt.webhooks.clone()).map_err(bad_webhooks)?;
            let mut changes = self.scenario_changes();
            chaos.set(&config.mqtt.chaos).map_err(bad_chaos)?;
            // What the settings say holds, though a scenario that goes on has changed it before.
            changes.rules.retain(|_, change| !change.before().is_some_and(|rule| rule.from_settings));
            Ok(())
        };
        if let Err(error) = changed.await {
            if let Err(error) = self.proxies()?.set(&before.mqtt.proxies).await {
                tracing::error!(%error, "proxies cannot be put back");
            }
            if let Err(error) = webhooks.replace_all(before.mqtt.webhooks.clone()) {
                tracing::error!(%error, "webhooks cannot be put back");
            }
            return Err(error);
        }
        {
            let mut changes = self.scenario_changes();
            mocks.put(prepared);
            changes.mocks.clear();
        }
        if let Err(error) = log::follow_settings(&config.log.level) {
            tracing::error!(%error, "the log's level stays, though it was checked");
        }
        self.server()?.set_access(config.mqtt.access.clone()).await?;
        // Last: callers of before are sent away once they have their answers.
        self.parts().tokens.set(config.api.tokens.clone());
        Ok(read)
    }

    /// Whether they could be put into force now; the mocks, which then can.
    fn check_settings(&self, config: &Config) -> Result<PreparedMocks, ControlError> {
        self.server()?;
        // The listeners stay where they are, and may be open to a network.
        if config.api.tokens.is_empty() && !self.parts().tokens.get().is_empty() {
            return Err(ControlError::bad_field(
                "api_tokens",
                "no token is left: letting everybody in takes a restart",
            ));
        }
        let mocks = self.mocks()?.prepare(config.mqtt.mocks.clone()).map_err(bad_mock)?;
        self.proxies()?.check(&config.mqtt.proxies)?;
        self.webhooks()?.check_all(config.mqtt.webhooks.clone()).map_err(bad_webhooks)?;
        self.chaos()?.check(&config.mqtt.chaos).map_err(bad_chaos)?;
        Ok(mocks)
    }

    /// Reads the files of certificates, keys and authorities again: connections go on, the next ones see what is new. Returns
    /// for how many listeners and upstreams there were any.
    ///
    /// # Errors
    /// The first file that is wrong; then all stays as it was.
    pub async fn reload_certificates(&self) -> Result<usize, TlsError> {
        self.with_certificates(|certificates| reload(certificates.iter().map(|files| &**files))).await
    }

    /// # Errors
    /// Those of [`reload_certificates`](Self::reload_certificates).
    async fn check_certificates(&self) -> Result<usize, TlsError> {
        self.with_certificates(|certificates| check(certificates.iter().map(|files| &**files))).await
    }

    async fn with_certificates(&self, read: ReadFiles) -> Result<usize, TlsError> {
        let mut certificates = self.parts().certificates.clone();
        certificates.extend(self.parts().proxies.iter().flat_map(Proxies::certificates));
        match spawn_blocking(move || read(&certificates).map(|()| certificates.len())).await {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn settings(&self) -> Result<&SettingsInForce, ControlError> {
        self.parts().settings.as_ref().ok_or(ControlError::NoServer)
    }
}

/// `began` is in force, or `last` if it is followed.
fn setting(began: &InForce, last: &InForce) -> pb::ConfigSetting {
    let row = Setting::find(began.key).expect("it is of the table");
    let in_force = if row.is_followed() { last } else { began };
    pb::ConfigSetting {
        key: row.key.to_owned(),
        value: shown(&in_force.value),
        origin: in_force.origin.to_string(),
        variable: row.variable(),
        about: row.about.to_owned(),
        effect: effect(row).into(),
        next_value: (!row.is_followed() && !began.is_same(last)).then(|| shown(&last.value)),
    }
}

/// What `after` says else than `before`.
fn changes(before: &Config, after: &Config) -> Vec<pb::ConfigChange> {
    // The same name, but other users in it.
    let has_other_users = before.mqtt.access != after.mqtt.access;
    let rows = SETTINGS.iter().zip(before.in_force.iter().zip(&after.in_force));
    let changed = rows.filter(|(row, (before, after))| {
        let is_file = row.key == PASSWORD_FILE && before.is_said();
        !before.is_same(after) || is_file && has_other_users
    });
    let change = |(row, (before, after)): (&Setting, (&InForce, &InForce))| pb::ConfigChange {
        key: row.key.to_owned(),
        before: shown(&before.value),
        after: shown(&after.value),
        effect: effect(row).into(),
    };
    changed.map(change).collect()
}

fn effect(setting: &Setting) -> pb::ConfigEffect {
    match setting.is_followed() {
        true => pb::ConfigEffect::AtOnce,
        false => pb::ConfigEffect::AtNextStart,
    }
}

/// JSON, or a text as it is.
fn shown(value: &Value) -> Bytes {
    match value {
        Value::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        other => other.to_json().to_string().into(),
    }
}

fn file_name(config: &Config) -> String {
    config.file.as_deref().map(|file| file.display().to_string()).unwrap_or_default()
}

fn bad_mock((position, error): (usize, MockError)) -> ControlError {
    ControlError::bad_field(format!("mqtt.mocks[{position}]"), error)
}

fn bad_webhooks(error: WebhookError) -> ControlError {
    match error {
        WebhookError::Bad(fields) => within("mqtt.webhooks", fields),
        other => ControlError::bad_field("mqtt.webhooks", other),
    }
}

fn bad_chaos(error: ChaosError) -> ControlError {
    match error {
        ChaosError::Bad(fields) => within("mqtt.chaos.", fields),
        other => ControlError::bad_field("mqtt.chaos", other),
    }
}

fn within(prefix: &str, fields: Vec<BadField>) -> ControlError {
    let within = |field: BadField| BadField { path: format!("{prefix}{}", field.path), ..field };
    ControlError::BadFields(fields.into_iter().map(within).collect())
}

fn bad_certificates(error: TlsError) -> ControlError {
    ControlError::bad_field("tls", error)
}
