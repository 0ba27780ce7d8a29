//! Tests of an app as `oncue test` runs them, with the author's client: one event, its flow, its row. Ends with code 7, so that
//! whoever called can see it.

use std::process::ExitCode;

use oncue::State;
use oncue::testing::Client;
use oncue_app_events::web::PageViewed;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Page {
    views: u64,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match test().await {
        Ok(said) => {
            println!("{said}");
            ExitCode::from(7)
        }
        Err(e) => {
            println!("{e}");
            ExitCode::FAILURE
        }
    }
}

async fn test() -> oncue::Result<String> {
    let client = Client::from_env().await?;
    let absent = client.row::<Page>("/home").await?;
    let view = PageViewed {
        page: "/home".into(),
        visitor: "v1".into(),
        ..PageViewed::default()
    };
    let mut flows = Vec::new();
    for _ in 0..2 {
        let id = client.publish(&view).await?;
        let flow = client.flow(&id).await?;
        flows.push(flow["events"][0]["steps"][0]["state"].clone());
    }
    let row = client.row::<Page>("/home").await?;
    let views = row.map_or(0, |row| row.views);
    let gateway = std::env::var("ONCUE_GATEWAY_URL")?;
    let ready = reqwest::get(format!("{gateway}/readyz")).await?.status();
    Ok(format!(
        "new {}, flows {flows:?}, views {views}, gateway {ready}",
        absent.is_none()
    ))
}
