# A subscription that nobody pulls from for 31 days is deleted, with all that is
# in it, unless its ttl is empty: so it is, everywhere.

locals {
  # The longest that Pub/Sub keeps a message that nobody has acknowledged.
  longest_retention = "2678400s" # 31 days
}

# Status changes, pushed to SyncStatus.
resource "google_pubsub_subscription" "status_push" {
  project = var.project_id
  name    = "${google_pubsub_topic.status.name}-push"
  topic   = google_pubsub_topic.status.id
  labels  = local.labels

  ack_deadline_seconds       = 600 # the longest, and longer than sync.timeout_seconds
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters.id
    max_delivery_attempts = 100
  }

  # Only the service's own address counts as internal, and only a token for it is
  # taken.
  push_config {
    push_endpoint = google_cloudfunctions2_function.sync.service_config[0].uri

    oidc_token {
      service_account_email = local.accounts.push.email
      audience              = google_cloudfunctions2_function.sync.service_config[0].uri
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.push,
    time_sleep.delivery,
  ]
}

# What could not be published or written back.
resource "google_pubsub_subscription" "rejects" {
  project = var.project_id
  name    = "${google_pubsub_topic.rejects.name}-pull"
  topic   = google_pubsub_topic.rejects.id
  labels  = local.labels

  ack_deadline_seconds       = 60
  message_retention_duration = local.longest_retention

  expiration_policy {
    ttl = ""
  }
}

# Write-backs that could not be done.
resource "google_pubsub_subscription" "dead_letters" {
  project = var.project_id
  name    = "${google_pubsub_topic.dead_letters.name}-pull"
  topic   = google_pubsub_topic.dead_letters.id
  labels  = local.labels

  ack_deadline_seconds       = 60
  message_retention_duration = local.longest_retention

  expiration_policy {
    ttl = ""
  }
}

# Alerts that a receiver did not take.
resource "google_pubsub_subscription" "alert_dead_letters" {
  project = var.project_id
  name    = "${google_pubsub_topic.alert_dead_letters.name}-pull"
  topic   = google_pubsub_topic.alert_dead_letters.id
  labels  = local.labels

  ack_deadline_seconds       = 60
  message_retention_duration = local.longest_retention

  expiration_policy {
    ttl = ""
  }
}

locals {
  bigquery_tables = { for name, s in var.alert_subscriptions : name => split(".", s.bigquery_table) if s.bigquery_table != null }

  # What Pub/Sub delivers by itself, and would drop in silence when it can't
  # until the retention is over.
  delivered = toset([for name, s in var.alert_subscriptions : name if s.bigquery_table != null || s.push_endpoint != null])

  # What somebody pulls from.
  pulled = setsubtract(keys(var.alert_subscriptions), local.delivered)
}

# The alerts, as var.alert_subscriptions asks for them.
resource "google_pubsub_subscription" "alerts" {
  for_each = var.alert_subscriptions

  project = var.project_id
  name    = "${google_pubsub_topic.alerts.name}-${each.key}"
  topic   = google_pubsub_topic.alerts.id
  filter  = each.value.filter
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

  dynamic "dead_letter_policy" {
    for_each = contains(local.delivered, each.key) ? [1] : []
    content {
      dead_letter_topic     = google_pubsub_topic.alert_dead_letters.id
      max_delivery_attempts = 100
    }
  }

  dynamic "bigquery_config" {
    for_each = each.value.bigquery_table[*]
    content {
      table                 = bigquery_config.value
      write_metadata        = true # the attributes, dedupe_key among them
      service_account_email = local.accounts.bigquery.email
    }
  }

  dynamic "push_config" {
    for_each = each.value.push_endpoint[*]
    content {
      push_endpoint = push_config.value

      oidc_token {
        service_account_email = local.accounts.alerts.email
        audience              = coalesce(each.value.push_audience, push_config.value)
      }
    }
  }

  # Pub/Sub makes no BigQuery subscription that it may not write for.
  depends_on = [time_sleep.delivery]
}
