//! Archives of checkpoints, streamed both ways.

use super::{Client, ClientError, Failed, IDEMPOTENCY_KEY};
use reqwest::{Body, Method, Response};
use serde_json::Value;

impl Client {
    /// Opens an answer that is not JSON.
    pub(crate) async fn open(&self, path: &str, query: &[(&str, &str)]) -> Result<Response, ClientError> {
        Ok(self.send(self.request(Method::GET, path).query(query)).await?)
    }

    /// `POST`s a stream. The error says also whether the same under the same key may be tried again.
    pub(crate) async fn upload(
        &self,
        path: &str,
        query: &[(&str, &str)],
        key: &str,
        body: Body,
        size: Option<u64>,
    ) -> Result<Value, (ClientError, bool)> {
        let mut request = self.request(Method::POST, path).query(query).header(IDEMPOTENCY_KEY, key);
        request = request.header("content-type", "application/x-tar");
        if let Some(size) = size {
            request = request.header("content-length", size);
        }
        match self.send(request.body(body)).await {
            Ok(response) => {
                let answer = self.read_json(response).await;
                answer.map_err(|error| {
                    let again = matches!(error, ClientError::Unreachable { .. });
                    (error, again)
                })
            }
            Err(Failed::Broken(error)) => Err((error, true)),
            Err(Failed::Final(error)) => Err((error, false)),
        }
    }
}
