# Every version of every alert as a line of a file: var.archive.

resource "google_storage_bucket" "archive" {
  count = var.archive == null ? 0 : 1

  project  = var.project_id
  name     = "${var.project_id}-${local.bucket_part}-archive"
  location = coalesce(var.archive.location, var.region)
  labels   = local.labels

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  default_event_based_hold    = var.archive.hold
  force_destroy               = !var.deletion_protection

  dynamic "encryption" {
    for_each = local.kms_key_name[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  dynamic "soft_delete_policy" {
    for_each = var.soft_delete_days[*]
    content {
      retention_duration_seconds = soft_delete_policy.value * 86400
    }
  }

  dynamic "retention_policy" {
    for_each = var.archive.retention_days[*]
    content {
      retention_period = retention_policy.value * 86400
      is_locked        = var.archive.lock
    }
  }

  depends_on = [time_sleep.kms]
}

resource "google_pubsub_subscription" "archive" {
  count = var.archive == null ? 0 : 1

  project = var.project_id
  name    = "${google_pubsub_topic.alerts.name}-archive"
  topic   = google_pubsub_topic.alerts.id
  labels  = local.labels

  # A file may be open no longer than this.
  ack_deadline_seconds       = 600
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
      code          = file("${path.module}/transforms/line.js")
    }
  }

  # Text, since there is no avro_config. A folder for each hour, in UTC, and a new file
  # at least every ten minutes, the longest that Pub/Sub has.
  # https://cloud.google.com/pubsub/docs/create-cloudstorage-subscription
  cloud_storage_config {
    bucket                   = google_storage_bucket.archive[0].name
    filename_prefix          = "alerts/"
    filename_datetime_format = "YYYY-MM-DD/hh/mm_ssZ"
    filename_suffix          = ".jsonl"
    max_duration             = "600s"
  }

  depends_on = [time_sleep.delivery]
}
