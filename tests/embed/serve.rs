use std::error::Error;
use std::sync::Arc;

use linkspan::api_server::routes;
use linkspan::door::export_api;
use linkspan::engine::Engine;
use linkspan::export::Exports;
use linkspan::net::Principal;
use linkspan::output::folder::Folders;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Serves `linkspan.export.v1` in front of an engine, in a tonic server of one's own, until `end`.
pub async fn serve(
    engine: Arc<dyn Engine>,
    listener: TcpListener,
    end: CancellationToken,
) -> Result<(), Box<dyn Error>> {
    let exports = Arc::new(Exports::new(engine));
    // Exports that a server of this name has left open are found again. No client may leave files on this machine.
    let api = export_api::open(exports.clone(), Folders::new(Vec::new()), "program", end.clone()).await;
    // Every call needs a client; who that is, is for the program to say.
    let identify = |mut call: Request<()>| {
        call.extensions_mut().insert(Principal::Internal);
        Ok(call)
    };
    Server::builder()
        .layer(InterceptorLayer::new(identify))
        .add_routes(routes(vec![api]))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), end.cancelled_owned())
        .await?;
    exports.finish().await;
    Ok(())
}
