//! The generated service traits: every rpc is one line that carries request and answer.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tonic_health::pb::health_server::HealthServer;

use super::{health::Health, traced::traced};
use crate::control::{
    Control, ControlError, ControlStream, MESSAGE_MAX,
    pb::{
        self, admin_server::AdminServer, broker_server::BrokerServer, chaos_server::ChaosServer,
        mocks_server::MocksServer, proxies_server::ProxiesServer, recordings_server::RecordingsServer,
        replays_server::ReplaysServer, scenarios_server::ScenariosServer, state_server::StateServer,
        verification_server::VerificationServer, webhooks_server::WebhooksServer,
    },
};

/// Every service with health and reflection. Carries requests in this process as well as from a port.
///
/// Requests have up to `message_max` bytes; answers as many, or what ours may have.
pub fn routes(control: Control, message_max: usize) -> Routes {
    macro_rules! sized {
        ($server:expr) => {
            $server
                .max_decoding_message_size(message_max)
                .max_encoding_message_size(message_max.max(MESSAGE_MAX))
        };
    }
    let health = HealthServer::new(Health(control.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    let telemetry = control.telemetry().clone();
    let routes = Routes::new(sized!(BrokerServer::new(control.clone())))
        .add_service(sized!(MocksServer::new(control.clone())))
        .add_service(sized!(StateServer::new(control.clone())))
        .add_service(sized!(WebhooksServer::new(control.clone())))
        .add_service(sized!(ChaosServer::new(control.clone())))
        .add_service(sized!(RecordingsServer::new(control.clone())))
        .add_service(sized!(ReplaysServer::new(control.clone())))
        .add_service(sized!(ScenariosServer::new(control.clone())))
        .add_service(sized!(VerificationServer::new(control.clone())))
        .add_service(sized!(ProxiesServer::new(control.clone())))
        .add_service(sized!(AdminServer::new(control)))
        .add_service(health)
        .add_service(v1.expect("build.rs wrote the descriptors"))
        .add_service(v1alpha.expect("build.rs wrote the descriptors"));
    match telemetry.traces() {
        true => {
            let traced = axum::middleware::from_fn_with_state(telemetry, traced);
            Routes::from(routes.into_axum_router().layer(traced)).prepare()
        }
        false => routes.prepare(),
    }
}

/// The names of our services, as health and reflection say them.
pub const SERVICES: &[&str] = &[
    pb::broker_server::SERVICE_NAME,
    pb::mocks_server::SERVICE_NAME,
    pb::state_server::SERVICE_NAME,
    pb::webhooks_server::SERVICE_NAME,
    pb::chaos_server::SERVICE_NAME,
    pb::recordings_server::SERVICE_NAME,
    pb::replays_server::SERVICE_NAME,
    pb::scenarios_server::SERVICE_NAME,
    pb::verification_server::SERVICE_NAME,
    pb::proxies_server::SERVICE_NAME,
    pb::admin_server::SERVICE_NAME,
];

/// Those that speak of the MQTT server of this process.
const OF_A_SERVER: &[&str] = &[
    pb::broker_server::SERVICE_NAME,
    pb::mocks_server::SERVICE_NAME,
    pb::state_server::SERVICE_NAME,
    pb::webhooks_server::SERVICE_NAME,
    pb::chaos_server::SERVICE_NAME,
    pb::verification_server::SERVICE_NAME,
    pb::proxies_server::SERVICE_NAME,
];

/// Whether a service can do its work here: some need a server.
pub fn is_serving(control: &Control, service: &str) -> bool {
    let stopping = control.stop().is_cancelled();
    !stopping && (control.has_server() || !OF_A_SERVER.contains(&service))
}

pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

async fn unary<T>(answer: impl Future<Output = Result<T, ControlError>>) -> Result<Response<T>, Status> {
    Ok(Response::new(answer.await?))
}

async fn streaming<T: 'static>(
    answers: impl Future<Output = Result<ControlStream<T>, ControlError>>,
) -> Result<Response<Answers<T>>, Status> {
    let answers = answers.await?.map(|answer| answer.map_err(Status::from));
    Ok(Response::new(Box::pin(answers)))
}

#[tonic::async_trait]
impl pb::broker_server::Broker for Control {
    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        unary(Control::publish(self, request.into_inner())).await
    }

    type PublishStreamStream = Answers<pb::PublishResult>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        streaming(Control::publish_stream(self, request.into_inner())).await
    }

    async fn publish_batch(
        &self,
        request: Request<pb::PublishBatchRequest>,
    ) -> Result<Response<pb::PublishBatchResponse>, Status> {
        unary(Control::publish_batch(self, request.into_inner())).await
    }

    type SubscribeStream = Answers<pb::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        streaming(Control::subscribe(self, request.into_inner())).await
    }

    async fn list_subscriptions(
        &self,
        request: Request<pb::ListSubscriptionsRequest>,
    ) -> Result<Response<pb::ListSubscriptionsResponse>, Status> {
        unary(Control::list_subscriptions(self, request.into_inner())).await
    }

    async fn get_stats(
        &self,
        request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        unary(Control::get_stats(self, request.into_inner())).await
    }

    async fn list_clients(
        &self,
        request: Request<pb::ListClientsRequest>,
    ) -> Result<Response<pb::ListClientsResponse>, Status> {
        unary(Control::list_clients(self, request.into_inner())).await
    }

    async fn get_client(
        &self,
        request: Request<pb::GetClientRequest>,
    ) -> Result<Response<pb::Client>, Status> {
        unary(Control::get_client(self, request.into_inner())).await
    }

    async fn disconnect_client(
        &self,
        request: Request<pb::DisconnectClientRequest>,
    ) -> Result<Response<pb::DisconnectClientResponse>, Status> {
        unary(Control::disconnect_client(self, request.into_inner())).await
    }

    async fn list_topics(
        &self,
        request: Request<pb::ListTopicsRequest>,
    ) -> Result<Response<pb::ListTopicsResponse>, Status> {
        unary(Control::list_topics(self, request.into_inner())).await
    }

    async fn list_retained(
        &self,
        request: Request<pb::ListRetainedRequest>,
    ) -> Result<Response<pb::ListRetainedResponse>, Status> {
        unary(Control::list_retained(self, request.into_inner())).await
    }

    async fn delete_retained(
        &self,
        request: Request<pb::DeleteRetainedRequest>,
    ) -> Result<Response<pb::DeleteRetainedResponse>, Status> {
        unary(Control::delete_retained(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::recordings_server::Recordings for Control {
    async fn start_recording(
        &self,
        request: Request<pb::StartRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::start_recording(self, request.into_inner())).await
    }

    async fn snapshot_recording(
        &self,
        request: Request<pb::SnapshotRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::snapshot_recording(self, request.into_inner())).await
    }

    async fn stop_recording(
        &self,
        request: Request<pb::StopRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::stop_recording(self, request.into_inner())).await
    }

    async fn mark_recording(
        &self,
        request: Request<pb::MarkRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::mark_recording(self, request.into_inner())).await
    }

    async fn get_recording(
        &self,
        request: Request<pb::GetRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::get_recording(self, request.into_inner())).await
    }

    async fn get_summary(
        &self,
        request: Request<pb::GetSummaryRequest>,
    ) -> Result<Response<pb::RecordingSummary>, Status> {
        unary(Control::get_summary(self, request.into_inner())).await
    }

    async fn infer_mocks(
        &self,
        request: Request<pb::InferMocksRequest>,
    ) -> Result<Response<pb::InferMocksResponse>, Status> {
        unary(Control::infer_mocks(self, request.into_inner())).await
    }

    async fn list_recordings(
        &self,
        request: Request<pb::ListRecordingsRequest>,
    ) -> Result<Response<pb::ListRecordingsResponse>, Status> {
        unary(Control::list_recordings(self, request.into_inner())).await
    }

    async fn delete_recording(
        &self,
        request: Request<pb::DeleteRecordingRequest>,
    ) -> Result<Response<pb::DeleteRecordingResponse>, Status> {
        unary(Control::delete_recording(self, request.into_inner())).await
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        unary(Control::list_events(self, request.into_inner())).await
    }

    type ReadEventsStream = Answers<pb::RecordedEvent>;

    async fn read_events(
        &self,
        request: Request<pb::ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        streaming(Control::read_events(self, request.into_inner())).await
    }

    type TailEventsStream = Answers<pb::TailEventsResponse>;

    async fn tail_events(
        &self,
        request: Request<pb::TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        streaming(Control::tail_events(self, request.into_inner())).await
    }

    type ExportRecordingStream = Answers<pb::google::api::HttpBody>;

    async fn export_recording(
        &self,
        request: Request<pb::ExportRecordingRequest>,
    ) -> Result<Response<Self::ExportRecordingStream>, Status> {
        streaming(Control::export_recording(self, request.into_inner())).await
    }

    async fn import_recording(
        &self,
        request: Request<Streaming<pb::ImportRecordingRequest>>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::import_recording(self, request.into_inner())).await
    }

    async fn trim_recording(
        &self,
        request: Request<pb::TrimRecordingRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::trim_recording(self, request.into_inner())).await
    }

    async fn merge_recordings(
        &self,
        request: Request<pb::MergeRecordingsRequest>,
    ) -> Result<Response<pb::Recording>, Status> {
        unary(Control::merge_recordings(self, request.into_inner())).await
    }

    async fn redact_recording(
        &self,
        request: Request<pb::RedactRecordingRequest>,
    ) -> Result<Response<pb::RedactRecordingResponse>, Status> {
        unary(Control::redact_recording(self, request.into_inner())).await
    }

    async fn check_recording(
        &self,
        request: Request<pb::CheckRecordingRequest>,
    ) -> Result<Response<pb::CheckRecordingResponse>, Status> {
        unary(Control::check_recording(self, request.into_inner())).await
    }

    async fn compare_recordings(
        &self,
        request: Request<pb::CompareRecordingsRequest>,
    ) -> Result<Response<pb::CompareRecordingsResponse>, Status> {
        unary(Control::compare_recordings(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::replays_server::Replays for Control {
    async fn create_replay(
        &self,
        request: Request<pb::CreateReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::create_replay(self, request.into_inner())).await
    }

    async fn get_replay(
        &self,
        request: Request<pb::GetReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::get_replay(self, request.into_inner())).await
    }

    async fn list_replays(
        &self,
        request: Request<pb::ListReplaysRequest>,
    ) -> Result<Response<pb::ListReplaysResponse>, Status> {
        unary(Control::list_replays(self, request.into_inner())).await
    }

    type WatchReplayStream = Answers<pb::Replay>;

    async fn watch_replay(
        &self,
        request: Request<pb::WatchReplayRequest>,
    ) -> Result<Response<Self::WatchReplayStream>, Status> {
        streaming(Control::watch_replay(self, request.into_inner())).await
    }

    async fn cancel_replay(
        &self,
        request: Request<pb::CancelReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::cancel_replay(self, request.into_inner())).await
    }

    async fn get_replay_report(
        &self,
        request: Request<pb::GetReplayReportRequest>,
    ) -> Result<Response<pb::GetReplayReportResponse>, Status> {
        unary(Control::get_replay_report(self, request.into_inner())).await
    }

    async fn pause_replay(
        &self,
        request: Request<pb::PauseReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::pause_replay(self, request.into_inner())).await
    }

    async fn resume_replay(
        &self,
        request: Request<pb::ResumeReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::resume_replay(self, request.into_inner())).await
    }

    async fn step_replay(
        &self,
        request: Request<pb::StepReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::step_replay(self, request.into_inner())).await
    }

    async fn burst_replay(
        &self,
        request: Request<pb::BurstReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::burst_replay(self, request.into_inner())).await
    }

    async fn set_replay_speed(
        &self,
        request: Request<pb::SetReplaySpeedRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::set_replay_speed(self, request.into_inner())).await
    }

    async fn seek_replay(
        &self,
        request: Request<pb::SeekReplayRequest>,
    ) -> Result<Response<pb::Replay>, Status> {
        unary(Control::seek_replay(self, request.into_inner())).await
    }

    type ControlReplayStream = Answers<pb::ControlReplayResponse>;

    async fn control_replay(
        &self,
        request: Request<Streaming<pb::ControlReplayRequest>>,
    ) -> Result<Response<Self::ControlReplayStream>, Status> {
        streaming(Control::control_replay(self, request.into_inner())).await
    }

    async fn plan_replay(
        &self,
        request: Request<pb::PlanReplayRequest>,
    ) -> Result<Response<pb::ReplayPlan>, Status> {
        unary(Control::plan_replay(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::verification_server::Verification for Control {
    async fn wait_for_messages(
        &self,
        request: Request<pb::WaitForMessagesRequest>,
    ) -> Result<Response<pb::WaitForMessagesResponse>, Status> {
        unary(Control::wait_for_messages(self, request.into_inner())).await
    }

    async fn verify(
        &self,
        request: Request<pb::VerifyRequest>,
    ) -> Result<Response<pb::VerifyResponse>, Status> {
        unary(Control::verify(self, request.into_inner())).await
    }

    async fn count(&self, request: Request<pb::CountRequest>) -> Result<Response<pb::CountResponse>, Status> {
        unary(Control::count(self, request.into_inner())).await
    }

    async fn find(&self, request: Request<pb::FindRequest>) -> Result<Response<pb::FindResponse>, Status> {
        unary(Control::find(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::scenarios_server::Scenarios for Control {
    async fn validate_scenario(
        &self,
        request: Request<pb::ValidateScenarioRequest>,
    ) -> Result<Response<pb::ValidateScenarioResponse>, Status> {
        unary(Control::validate_scenario(self, request.into_inner())).await
    }

    type RunScenarioStream = Answers<pb::ScenarioEvent>;

    async fn run_scenario(
        &self,
        request: Request<pb::RunScenarioRequest>,
    ) -> Result<Response<Self::RunScenarioStream>, Status> {
        streaming(Control::run_scenario(self, request.into_inner())).await
    }

    type DriveScenarioStream = Answers<pb::DriveScenarioResponse>;

    async fn drive_scenario(
        &self,
        request: Request<Streaming<pb::DriveScenarioRequest>>,
    ) -> Result<Response<Self::DriveScenarioStream>, Status> {
        streaming(Control::drive_scenario(self, request.into_inner())).await
    }

    async fn get_run(
        &self,
        request: Request<pb::GetRunRequest>,
    ) -> Result<Response<pb::ScenarioRun>, Status> {
        unary(Control::get_run(self, request.into_inner())).await
    }

    async fn list_runs(
        &self,
        request: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsResponse>, Status> {
        unary(Control::list_runs(self, request.into_inner())).await
    }

    async fn cancel_run(
        &self,
        request: Request<pb::CancelRunRequest>,
    ) -> Result<Response<pb::ScenarioRun>, Status> {
        unary(Control::cancel_run(self, request.into_inner())).await
    }

    async fn get_run_report(
        &self,
        request: Request<pb::GetRunReportRequest>,
    ) -> Result<Response<pb::GetRunReportResponse>, Status> {
        unary(Control::get_run_report(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::admin_server::Admin for Control {
    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<pb::ResetResponse>, Status> {
        unary(Control::reset(self, request.into_inner())).await
    }

    async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::ServerInfo>, Status> {
        unary(Control::get_server_info(self, request.into_inner())).await
    }

    type WatchEventsStream = Answers<pb::ServerEvent>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        streaming(Control::watch_events(self, request.into_inner())).await
    }

    async fn get_log_filter(
        &self,
        request: Request<pb::GetLogFilterRequest>,
    ) -> Result<Response<pb::LogFilter>, Status> {
        unary(Control::get_log_filter(self, request.into_inner())).await
    }

    async fn set_log_filter(
        &self,
        request: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::LogFilter>, Status> {
        unary(Control::set_log_filter(self, request.into_inner())).await
    }

    async fn shutdown(
        &self,
        request: Request<pb::ShutdownRequest>,
    ) -> Result<Response<pb::ShutdownResponse>, Status> {
        unary(Control::shutdown(self, request.into_inner())).await
    }

    async fn get_config(
        &self,
        request: Request<pb::GetConfigRequest>,
    ) -> Result<Response<pb::GetConfigResponse>, Status> {
        unary(Control::get_config(self, request.into_inner())).await
    }

    async fn apply_config(
        &self,
        request: Request<pb::ApplyConfigRequest>,
    ) -> Result<Response<pb::ApplyConfigResponse>, Status> {
        unary(Control::apply_config(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::mocks_server::Mocks for Control {
    async fn create_mock(
        &self,
        request: Request<pb::CreateMockRequest>,
    ) -> Result<Response<pb::Mock>, Status> {
        unary(Control::create_mock(self, request.into_inner())).await
    }

    async fn get_mock(&self, request: Request<pb::GetMockRequest>) -> Result<Response<pb::Mock>, Status> {
        unary(Control::get_mock(self, request.into_inner())).await
    }

    async fn list_mocks(
        &self,
        request: Request<pb::ListMocksRequest>,
    ) -> Result<Response<pb::ListMocksResponse>, Status> {
        unary(Control::list_mocks(self, request.into_inner())).await
    }

    async fn update_mock(
        &self,
        request: Request<pb::UpdateMockRequest>,
    ) -> Result<Response<pb::Mock>, Status> {
        unary(Control::update_mock(self, request.into_inner())).await
    }

    async fn delete_mock(&self, request: Request<pb::DeleteMockRequest>) -> Result<Response<()>, Status> {
        unary(Control::delete_mock(self, request.into_inner())).await
    }

    async fn reset_mocks(
        &self,
        request: Request<pb::ResetMocksRequest>,
    ) -> Result<Response<pb::ListMocksResponse>, Status> {
        unary(Control::reset_mocks(self, request.into_inner())).await
    }

    async fn fire_mock(
        &self,
        request: Request<pb::FireMockRequest>,
    ) -> Result<Response<pb::FireMockResponse>, Status> {
        unary(Control::fire_mock(self, request.into_inner())).await
    }

    async fn list_unmatched(
        &self,
        request: Request<pb::ListUnmatchedRequest>,
    ) -> Result<Response<pb::ListUnmatchedResponse>, Status> {
        unary(Control::list_unmatched(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::state_server::State for Control {
    async fn get_state(
        &self,
        request: Request<pb::GetStateRequest>,
    ) -> Result<Response<pb::StateEntry>, Status> {
        unary(Control::get_state(self, request.into_inner())).await
    }

    async fn set_state(
        &self,
        request: Request<pb::SetStateRequest>,
    ) -> Result<Response<pb::StateEntry>, Status> {
        unary(Control::set_state(self, request.into_inner())).await
    }

    async fn delete_state(&self, request: Request<pb::DeleteStateRequest>) -> Result<Response<()>, Status> {
        unary(Control::delete_state(self, request.into_inner())).await
    }

    async fn list_state(
        &self,
        request: Request<pb::ListStateRequest>,
    ) -> Result<Response<pb::ListStateResponse>, Status> {
        unary(Control::list_state(self, request.into_inner())).await
    }

    async fn reset_state(&self, request: Request<pb::ResetStateRequest>) -> Result<Response<()>, Status> {
        unary(Control::reset_state(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::webhooks_server::Webhooks for Control {
    async fn create_webhook(
        &self,
        request: Request<pb::CreateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        unary(Control::create_webhook(self, request.into_inner())).await
    }

    async fn get_webhook(
        &self,
        request: Request<pb::GetWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        unary(Control::get_webhook(self, request.into_inner())).await
    }

    async fn list_webhooks(
        &self,
        request: Request<pb::ListWebhooksRequest>,
    ) -> Result<Response<pb::ListWebhooksResponse>, Status> {
        unary(Control::list_webhooks(self, request.into_inner())).await
    }

    async fn update_webhook(
        &self,
        request: Request<pb::UpdateWebhookRequest>,
    ) -> Result<Response<pb::Webhook>, Status> {
        unary(Control::update_webhook(self, request.into_inner())).await
    }

    async fn delete_webhook(
        &self,
        request: Request<pb::DeleteWebhookRequest>,
    ) -> Result<Response<()>, Status> {
        unary(Control::delete_webhook(self, request.into_inner())).await
    }

    async fn list_deliveries(
        &self,
        request: Request<pb::ListDeliveriesRequest>,
    ) -> Result<Response<pb::ListDeliveriesResponse>, Status> {
        unary(Control::list_deliveries(self, request.into_inner())).await
    }

    async fn redeliver(
        &self,
        request: Request<pb::RedeliverRequest>,
    ) -> Result<Response<pb::WebhookDelivery>, Status> {
        unary(Control::redeliver(self, request.into_inner())).await
    }

    async fn test_webhook(
        &self,
        request: Request<pb::TestWebhookRequest>,
    ) -> Result<Response<pb::WebhookDelivery>, Status> {
        unary(Control::test_webhook(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::chaos_server::Chaos for Control {
    async fn get_chaos(
        &self,
        request: Request<pb::GetChaosRequest>,
    ) -> Result<Response<pb::ChaosStatus>, Status> {
        unary(Control::get_chaos(self, request.into_inner())).await
    }

    async fn enable_chaos(
        &self,
        request: Request<pb::EnableChaosRequest>,
    ) -> Result<Response<pb::ChaosStatus>, Status> {
        unary(Control::enable_chaos(self, request.into_inner())).await
    }

    async fn disable_chaos(
        &self,
        request: Request<pb::DisableChaosRequest>,
    ) -> Result<Response<pb::ChaosStatus>, Status> {
        unary(Control::disable_chaos(self, request.into_inner())).await
    }

    async fn reset_chaos(
        &self,
        request: Request<pb::ResetChaosRequest>,
    ) -> Result<Response<pb::ChaosStatus>, Status> {
        unary(Control::reset_chaos(self, request.into_inner())).await
    }

    async fn apply_profile(
        &self,
        request: Request<pb::ApplyProfileRequest>,
    ) -> Result<Response<pb::ListRulesResponse>, Status> {
        unary(Control::apply_profile(self, request.into_inner())).await
    }

    async fn list_profiles(
        &self,
        request: Request<pb::ListProfilesRequest>,
    ) -> Result<Response<pb::ListProfilesResponse>, Status> {
        unary(Control::list_profiles(self, request.into_inner())).await
    }

    async fn create_rule(
        &self,
        request: Request<pb::CreateRuleRequest>,
    ) -> Result<Response<pb::ChaosRule>, Status> {
        unary(Control::create_rule(self, request.into_inner())).await
    }

    async fn get_rule(
        &self,
        request: Request<pb::GetRuleRequest>,
    ) -> Result<Response<pb::ChaosRule>, Status> {
        unary(Control::get_rule(self, request.into_inner())).await
    }

    async fn list_rules(
        &self,
        request: Request<pb::ListRulesRequest>,
    ) -> Result<Response<pb::ListRulesResponse>, Status> {
        unary(Control::list_rules(self, request.into_inner())).await
    }

    async fn update_rule(
        &self,
        request: Request<pb::UpdateRuleRequest>,
    ) -> Result<Response<pb::ChaosRule>, Status> {
        unary(Control::update_rule(self, request.into_inner())).await
    }

    async fn delete_rule(&self, request: Request<pb::DeleteRuleRequest>) -> Result<Response<()>, Status> {
        unary(Control::delete_rule(self, request.into_inner())).await
    }

    async fn get_seed(
        &self,
        request: Request<pb::GetSeedRequest>,
    ) -> Result<Response<pb::ChaosSeed>, Status> {
        unary(Control::get_seed(self, request.into_inner())).await
    }

    async fn set_seed(
        &self,
        request: Request<pb::SetSeedRequest>,
    ) -> Result<Response<pb::ChaosSeed>, Status> {
        unary(Control::set_seed(self, request.into_inner())).await
    }

    async fn list_faults(
        &self,
        request: Request<pb::ListFaultsRequest>,
    ) -> Result<Response<pb::ListFaultsResponse>, Status> {
        unary(Control::list_faults(self, request.into_inner())).await
    }

    type WatchFaultsStream = Answers<pb::WatchFaultsResponse>;

    async fn watch_faults(
        &self,
        request: Request<pb::WatchFaultsRequest>,
    ) -> Result<Response<Self::WatchFaultsStream>, Status> {
        streaming(Control::watch_faults(self, request.into_inner())).await
    }
}

#[tonic::async_trait]
impl pb::proxies_server::Proxies for Control {
    async fn create_proxy(
        &self,
        request: Request<pb::CreateProxyRequest>,
    ) -> Result<Response<pb::Proxy>, Status> {
        unary(Control::create_proxy(self, request.into_inner())).await
    }

    async fn get_proxy(&self, request: Request<pb::GetProxyRequest>) -> Result<Response<pb::Proxy>, Status> {
        unary(Control::get_proxy(self, request.into_inner())).await
    }

    async fn list_proxies(
        &self,
        request: Request<pb::ListProxiesRequest>,
    ) -> Result<Response<pb::ListProxiesResponse>, Status> {
        unary(Control::list_proxies(self, request.into_inner())).await
    }

    async fn update_proxy(
        &self,
        request: Request<pb::UpdateProxyRequest>,
    ) -> Result<Response<pb::Proxy>, Status> {
        unary(Control::update_proxy(self, request.into_inner())).await
    }

    async fn delete_proxy(&self, request: Request<pb::DeleteProxyRequest>) -> Result<Response<()>, Status> {
        unary(Control::delete_proxy(self, request.into_inner())).await
    }

    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        unary(Control::list_connections(self, request.into_inner())).await
    }

    async fn close_connection(
        &self,
        request: Request<pb::CloseConnectionRequest>,
    ) -> Result<Response<()>, Status> {
        unary(Control::close_connection(self, request.into_inner())).await
    }
}
