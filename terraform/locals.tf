# What follows from the variables alone, so that a test can check these without the
# resources (tests/variables).

locals {
  suffix = var.feed == "default" ? "" : "-${var.feed}"
  name   = "${var.name}${local.suffix}"

  # Ids of service accounts have at most 30 characters, and the longest of ours
  # ends with -scheduler.
  short_name = length(local.name) <= 20 ? local.name : "${substr(local.name, 0, 13)}-${substr(sha256(local.name), 0, 6)}"

  # Bucket names have at most 63 characters, of which the project's id may take 30.
  # Cloud Storage refuses "google" in them, and close misspellings, which a
  # project's id can't have either: https://cloud.google.com/storage/docs/buckets#naming
  bucket_part = can(regex("g[o0]{2}gle", local.short_name)) ? substr(sha256(local.name), 0, 8) : local.short_name

  connector = try(var.network.connector, null)
  egress    = try(var.network.egress, null)

  interval_minutes = coalesce(var.schedule.interval_minutes, 5)
  cron = (
    var.schedule.cron != null ? var.schedule.cron :
    local.interval_minutes == 1440 ? "0 0 * * *" :
    local.interval_minutes > 60 ? "0 */${floor(local.interval_minutes / 60)} * * *" :
    local.interval_minutes == 60 ? "0 * * * *" :
    local.interval_minutes == 1 ? "* * * * *" :
    "*/${local.interval_minutes} * * * *"
  )

  requests_per_day = var.gti.max_requests_per_day

  topic_names = {
    alerts             = coalesce(var.topics.alerts, "dtm-alerts${local.suffix}")
    rejects            = coalesce(var.topics.rejects, "dtm-rejects${local.suffix}")
    status             = coalesce(var.topics.status, "dtm-status-updates${local.suffix}")
    dead_letters       = coalesce(var.topics.dead_letters, "dtm-dead-letters${local.suffix}")
    alert_dead_letters = coalesce(var.topics.alert_dead_letters, "dtm-alert-dead-letters${local.suffix}")
  }
  topic_ids = { for topic, name in local.topic_names : topic => "projects/${var.project_id}/topics/${name}" }

  database = coalesce(var.database.existing, var.database.name, local.name)

  secret_project = try(regex("^projects/([^/]+)/", var.secret.existing)[0], var.project_id)
  secret_name    = try(basename(var.secret.existing), "${local.name}-gti-api-key")
  secret_id      = "projects/${local.secret_project}/secrets/${local.secret_name}"

  # Go durations in whole milliseconds, as internal/config wants them: a fraction
  # has so many digits at most.
  duration_pattern = "^([0-9]+(\\.[0-9]{1,5})?h|[0-9]+(\\.[0-9]{1,4})?m|[0-9]+(\\.[0-9]{1,3})?s|[0-9]+ms)+$"

  # Terraform compares times, not durations: the validations add them to this one.
  epoch = "1970-01-01T00:00:00Z"

  # Whether Pub/Sub writes rows of BigQuery for anybody.
  writes_rows = var.bigquery != null || anytrue([for s in values(var.alert_subscriptions) : s.bigquery_table != null])
}
