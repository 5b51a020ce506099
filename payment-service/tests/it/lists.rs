//! Charges in pages.

use mesh_proto::shop::payment::v1::ChargeRequest;
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Request;

use crate::app::{TestApp, charging, new_key, refused_fields};

async fn pages_follow_one_another_from_the_newest(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let mut made = Vec::new();
    for n in 0..25 {
        let customer_id = if n % 5 == 0 { "bob" } else { "ada" }.to_owned();
        let request = ChargeRequest { customer_id, ..charging(&new_key(), n + 1) };
        made.push(app.send(Request::new(request)).await.unwrap());
    }
    made.reverse();
    for customer in ["", "ada", "bob", "unknown"] {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let (page, next) = app.list(customer, 4, &token).await.unwrap();
            all.extend(page);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let mut expected = made.clone();
        expected.retain(|charge| customer.is_empty() || charge.customer_id == customer);
        assert_eq!(all, expected, "{customer}");
    }
    let (_, token) = app.list("ada", 4, "").await.unwrap();
    refused_fields(app.list("bob", 4, &token).await, &["page_token"]);
    refused_fields(app.list("\n", -1, "x").await, &["customer_id", "page_size", "page_token"]);
}

on_both_databases!(pages_follow_one_another_from_the_newest);
