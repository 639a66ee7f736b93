# Every version of every alert as a row, and views over them: var.bigquery.

locals {
  dataset = var.bigquery == null ? null : coalesce(var.bigquery.dataset, replace(local.name, "-", "_"))

  view_versions = var.bigquery == null ? null : templatefile("${path.module}/views/versions.sql", {
    table = "`${var.project_id}.${local.dataset}.alerts`"
  })
}

resource "google_bigquery_dataset" "alerts" {
  count = var.bigquery == null ? 0 : 1

  project     = var.project_id
  dataset_id  = local.dataset
  location    = coalesce(var.bigquery.location, var.region)
  description = "DTM alerts of the feed ${var.feed}"
  labels      = local.labels

  # Its tables have it from here.
  dynamic "default_encryption_configuration" {
    for_each = local.kms_key_name[*]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  depends_on = [time_sleep.kms]
}

resource "google_bigquery_table" "alerts" {
  count = var.bigquery == null ? 0 : 1

  project     = var.project_id
  dataset_id  = google_bigquery_dataset.alerts[0].dataset_id
  table_id    = "alerts"
  description = "One row for each message: each version of each alert, at least once"
  labels      = local.labels

  deletion_protection = var.deletion_protection

  # The metadata's names and types are Pub/Sub's. Strings, and nothing required: a
  # column of JSON would refuse what BigQuery's JSON can't hold, such as some numbers.
  # https://cloud.google.com/pubsub/docs/bigquery
  schema = jsonencode([
    { name = "alert_id", type = "STRING", mode = "NULLABLE", description = "The alert" },
    { name = "data", type = "STRING", mode = "NULLABLE", description = "The message's data; null where the row would pass BigQuery's 10 MB" },
    { name = "subscription_name", type = "STRING", mode = "NULLABLE", description = "The subscription that wrote the row" },
    { name = "message_id", type = "STRING", mode = "NULLABLE", description = "Pub/Sub's id of the message" },
    { name = "publish_time", type = "TIMESTAMP", mode = "NULLABLE", description = "When the relay published it" },
    { name = "attributes", type = "STRING", mode = "NULLABLE", description = "The message's attributes, a JSON object of strings" },
  ])

  time_partitioning {
    type          = "DAY"
    field         = "publish_time"
    expiration_ms = var.bigquery.expiration_days == null ? null : var.bigquery.expiration_days * 86400000
  }

  clustering = ["alert_id"]
}

resource "google_bigquery_table" "current" {
  count = var.bigquery == null ? 0 : 1

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.alerts[0].dataset_id
  table_id            = "alerts_current"
  description         = "The latest version of every alert"
  labels              = local.labels
  deletion_protection = false # nothing is in a view

  view {
    query          = templatefile("${path.module}/views/alerts_current.sql", { versions = local.view_versions })
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.alerts]
}

resource "google_bigquery_table" "view" {
  for_each = var.bigquery == null ? {} : {
    alerts_open      = "Alerts that are not closed, with their age"
    alerts_lifecycle = "When every alert was first seen, triaged and closed"
  }

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.alerts[0].dataset_id
  table_id            = each.key
  description         = each.value
  labels              = local.labels
  deletion_protection = false

  view {
    query = templatefile("${path.module}/views/${each.key}.sql", {
      versions       = local.view_versions
      alerts_current = "`${var.project_id}.${local.dataset}.alerts_current`"
    })
    use_legacy_sql = false
  }

  depends_on = [google_bigquery_table.current]
}

resource "google_pubsub_subscription" "bigquery" {
  count = var.bigquery == null ? 0 : 1

  project = var.project_id
  name    = "${google_pubsub_topic.alerts.name}-bigquery"
  topic   = google_pubsub_topic.alerts.id
  labels  = local.labels

  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.alert_dead_letters.id
    max_delivery_attempts = 100
  }

  message_transforms {
    javascript_udf {
      function_name = "transform"
      code          = file("${path.module}/transforms/row.js")
    }
  }

  bigquery_config {
    table                 = "${var.project_id}.${google_bigquery_dataset.alerts[0].dataset_id}.${google_bigquery_table.alerts[0].table_id}"
    use_table_schema      = true
    write_metadata        = true
    service_account_email = local.accounts.bigquery.email
  }

  # As in subscriptions.tf: without the grant there is no subscription.
  depends_on = [time_sleep.delivery]
}
