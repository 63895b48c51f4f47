//! One connection as a service: says whose request it is, and that it is being
//! answered until the last of the answer was made and all of it was sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::Origin;
use super::places::{Place, Visit};

/// What a connection is served by. Requests find its [`Origin`] and its
/// [`Guest`](super::places::Guest) among their extensions.
#[derive(Debug)]
pub(super) struct Visitor<'a> {
    pub(super) router: TowerToHyperService<Router>,
    pub(super) place: &'a Place,
    pub(super) origin: Origin,
}

impl Service<Request<Incoming>> for Visitor<'_> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let visit = self.place.visit();
        request.extensions_mut().insert(self.origin);
        request.extensions_mut().insert(self.place.guest());
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Answer {
                body,
                _visit: visit,
            }))
        })
    }
}

/// A body that keeps its connection's place.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    _visit: Visit,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
