resource "google_pubsub_topic" "alerts" {
  project = var.project_id
  name    = local.topic_names.alerts
  labels  = local.labels

  kms_key_name = local.kms_key_name

  dynamic "message_storage_policy" {
    for_each = var.topics.regions == null ? [] : [var.topics.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  # A subscription made later can be rewound this far: no request to GTI needed.
  message_retention_duration = "${var.topics.retention_days * 86400}s"

  depends_on = [time_sleep.kms]
}

resource "google_pubsub_topic" "rejects" {
  project = var.project_id
  name    = local.topic_names.rejects
  labels  = local.labels

  kms_key_name = local.kms_key_name

  dynamic "message_storage_policy" {
    for_each = var.topics.regions == null ? [] : [var.topics.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  depends_on = [time_sleep.kms]
}

resource "google_pubsub_topic" "status" {
  project = var.project_id
  name    = local.topic_names.status
  labels  = local.labels

  kms_key_name = local.kms_key_name

  dynamic "message_storage_policy" {
    for_each = var.topics.regions == null ? [] : [var.topics.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  depends_on = [time_sleep.kms]
}

# Write-backs that could not be done. They are not on the topic below, because each
# kind is looked at by somebody else, and goes back to another topic.
resource "google_pubsub_topic" "dead_letters" {
  project = var.project_id
  name    = local.topic_names.dead_letters
  labels  = local.labels

  kms_key_name = local.kms_key_name

  dynamic "message_storage_policy" {
    for_each = var.topics.regions == null ? [] : [var.topics.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  depends_on = [time_sleep.kms]
}

# Alerts that a receiver did not take.
resource "google_pubsub_topic" "alert_dead_letters" {
  project = var.project_id
  name    = local.topic_names.alert_dead_letters
  labels  = local.labels

  kms_key_name = local.kms_key_name

  dynamic "message_storage_policy" {
    for_each = var.topics.regions == null ? [] : [var.topics.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }

  depends_on = [time_sleep.kms]
}
