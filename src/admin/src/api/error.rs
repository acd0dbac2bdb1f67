//! Why a request of the API is refused.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use isthmus_model::CommandError;
use serde_json::json;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The client has not shown who it is, or not proven it.
    #[error("Login failed")]
    Unauthorized,
    /// The user may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// It does not exist.
    #[error("Not Found")]
    NotFound,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The machine does not do it.
    #[error("{0}")]
    Failed(String),
    /// The broker is not there yet, or not any more.
    #[error("the broker is starting or stopping; ask again")]
    Unavailable,
    /// The broker refuses.
    #[error("{0}")]
    Broker(#[from] CommandError),
}

/// The body of a request, or what is wrong with it.
pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> ApiError {
        ApiError::Invalid(rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let reason = self.to_string();
        let (status, error) = match &self {
            ApiError::Unauthorized => (StatusCode::UNAUTHORIZED, "not_authorized"),
            ApiError::Forbidden(_) | ApiError::Broker(CommandError::Refused(_)) => {
                (StatusCode::FORBIDDEN, "not_authorized")
            }
            ApiError::NotFound | ApiError::Broker(CommandError::NotFound(_)) => {
                (StatusCode::NOT_FOUND, "Object Not Found")
            }
            ApiError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
            ApiError::Unavailable | ApiError::Broker(CommandError::NotLeader) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            ApiError::Invalid(_) | ApiError::Broker(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        };
        let body = Json(json!({ "error": error, "reason": reason }));
        let mut response = (status, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"Isthmus\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Answers for paths that nothing is at.
pub(super) async fn not_found() -> ApiError {
    ApiError::NotFound
}
