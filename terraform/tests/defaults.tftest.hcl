# With project_id, and somebody to tell: tests/monitoring.tftest.hcl has what is without.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "defaults" {
  command = plan

  assert {
    condition     = google_cloudfunctions2_function.ingest.name == "dtm-relay-ingest" && google_cloudfunctions2_function.sync.name == "dtm-relay-sync"
    error_message = "names of the functions"
  }
  assert {
    condition     = google_cloudfunctions2_function.ingest.location == "us-central1" && google_cloud_scheduler_job.ingest.region == "us-central1" && google_storage_bucket.source[0].location == "us-central1" && google_artifact_registry_repository.images.location == "us-central1" && google_firestore_database.this[0].location_id == "us-central1"
    error_message = "everything is in one region"
  }
  assert {
    condition     = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] : f.build_config[0].runtime == "go126"])
    error_message = "runtime"
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "*/5 * * * *" && google_cloud_scheduler_job.ingest.time_zone == "Etc/UTC" && google_cloud_scheduler_job.ingest.paused == false
    error_message = "a run every five minutes"
  }
  assert {
    condition     = google_pubsub_topic.alerts.name == "dtm-alerts" && google_pubsub_topic.rejects.name == "dtm-rejects" && google_pubsub_topic.status.name == "dtm-status-updates" && google_pubsub_topic.dead_letters.name == "dtm-dead-letters" && google_pubsub_topic.alert_dead_letters.name == "dtm-alert-dead-letters"
    error_message = "names of the topics"
  }
  assert {
    condition     = length(google_pubsub_subscription.alerts) == 0
    error_message = "no subscription to the alerts"
  }
  assert {
    condition     = google_firestore_database.this[0].name == "dtm-relay" && google_firestore_database.this[0].type == "FIRESTORE_NATIVE"
    error_message = "a database of its own"
  }
  assert {
    condition     = google_firestore_database.this[0].delete_protection_state == "DELETE_PROTECTION_ENABLED" && google_firestore_database.this[0].deletion_policy == "ABANDON"
    error_message = "the database is protected, and destroy leaves it"
  }
  assert {
    condition     = google_firestore_database.this[0].point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_DISABLED" && length(google_firestore_backup_schedule.this) == 0
    error_message = "no point-in-time recovery, no backups"
  }
  assert {
    condition     = google_secret_manager_secret.gti_api_key[0].secret_id == "dtm-relay-gti-api-key"
    error_message = "a secret of its own"
  }
  assert {
    condition     = alltrue([for s in values(google_project_service.this) : s.disable_on_destroy == false]) && google_storage_bucket.source[0].force_destroy
    error_message = "destroy empties the bucket and leaves the services on"
  }
  assert {
    condition     = google_cloudfunctions2_function.ingest.labels == tomap({ app = "dtm-relay", feed = "default", version = replace(local.version, ".", "-") }) && can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", local.version))
    error_message = "labels"
  }
}

run "every_environment_variable" {
  command = plan

  assert {
    condition = local.ingest_environment == {
      GOOGLE_CLOUD_PROJECT      = "my-project"
      FEED                      = "default"
      PUBSUB_TOPIC              = "projects/my-project/topics/dtm-alerts"
      REJECTS_TOPIC             = "projects/my-project/topics/dtm-rejects"
      FIRESTORE_DATABASE        = "dtm-relay"
      GTI_API_KEY_SECRET        = "projects/my-project/secrets/dtm-relay-gti-api-key/versions/latest"
      GTI_BASE_URL              = "https://www.virustotal.com/api/v3"
      GTI_TOOL_NAME             = "dtm-relay"
      DTM_FILTER                = "{}"
      DTM_REFS                  = "true"
      MESSAGE_FORMAT            = "raw"
      RULES                     = "[]"
      REDACT                    = "[\"credentials\"]"
      STATUS_TOPIC              = "projects/my-project/topics/dtm-status-updates"
      OPERATORS                 = "[]"
      VIEWERS                   = "[]"
      INITIAL_LOOKBACK          = "24h"
      OVERLAP                   = "10m"
      SETTLE                    = "30s"
      MAX_LOOKBACK              = "120h"
      AUDIT_WINDOW              = "72h"
      UPDATES_WINDOW            = "720h"
      LEDGER_TTL                = "4320h"
      MONITORS_CHECK            = "24h"
      MAX_ALERTS_PER_RUN        = "0"
      MAX_CONCURRENCY           = "6"
      MAX_QPS                   = "10"
      MAX_REQUESTS_PER_DAY      = "40000"
      MAX_ERRORS_PER_HOUR       = "100"
      LOG_LEVEL                 = "info"
      CLOUD_RUN_TIMEOUT_SECONDS = "540"
    }
    error_message = "environment of Ingest: ${jsonencode(local.ingest_environment)}"
  }
  assert {
    condition = local.sync_environment == { for name, value in merge(local.ingest_environment, { CLOUD_RUN_TIMEOUT_SECONDS = "300" }) :
      name => value if !contains(["RULES", "REDACT", "STATUS_TOPIC", "OPERATORS", "VIEWERS"], name)
    }
    error_message = "environment of SyncStatus: ${jsonencode(local.sync_environment)}"
  }
  assert {
    condition     = google_cloudfunctions2_function.ingest.service_config[0].environment_variables == tomap(local.ingest_environment) && google_cloudfunctions2_function.sync.service_config[0].environment_variables == tomap(local.sync_environment)
    error_message = "the functions get their environments"
  }
  assert {
    condition     = !contains(keys(local.ingest_environment), "GTI_API_KEY")
    error_message = "the key itself is in no environment"
  }
}

run "everything_else" {
  command = plan
  variables {
    region    = "europe-west1"
    name      = "relay"
    feed      = "emea"
    labels    = { team = "soc" }
    runtime   = "go127"
    log_level = "debug"

    message_format = "incident"
    gti = {
      filter             = "{\"severity\":[\"high\"]}", refs = false, max_concurrency = 3, max_qps = 2.5, max_requests_per_day = 100, max_errors_per_hour = 250
      max_alerts_per_run = 7, base_url = "https://gti.example.com/v3", tool_name = "my tool"
    }
    windows = {
      initial_lookback = "2h", overlap = "1h", settle = "1m30s", max_lookback = "48h", audit = "0", updates = "0", ledger_ttl = "100h", monitors_check = "6h"
    }
    schedule            = { cron = "0 6 * * 1-5", interval_minutes = 1440, time_zone = "Europe/Zurich", paused = true }
    ingest              = { timeout_seconds = 1770, budget = "20m", memory = "1Gi" }
    sync                = { timeout_seconds = 60, memory = "2Gi", max_instances = 1, concurrency = 3 }
    topics              = { alerts = "mine", retention_days = 31 }
    database            = { location = "eur3" }
    secret              = { existing = "projects/other-project/secrets/key", version = "3" }
    deletion_protection = false
  }

  assert {
    condition = local.ingest_environment == {
      GOOGLE_CLOUD_PROJECT      = "my-project"
      FEED                      = "emea"
      PUBSUB_TOPIC              = "projects/my-project/topics/mine"
      REJECTS_TOPIC             = "projects/my-project/topics/dtm-rejects-emea"
      FIRESTORE_DATABASE        = "relay-emea"
      GTI_API_KEY_SECRET        = "projects/other-project/secrets/key/versions/3"
      GTI_BASE_URL              = "https://gti.example.com/v3"
      GTI_TOOL_NAME             = "my tool"
      DTM_FILTER                = "{\"severity\":[\"high\"]}"
      DTM_REFS                  = "false"
      MESSAGE_FORMAT            = "incident"
      RULES                     = "[]"
      REDACT                    = "[\"credentials\"]"
      STATUS_TOPIC              = "projects/my-project/topics/dtm-status-updates-emea"
      OPERATORS                 = "[]"
      VIEWERS                   = "[]"
      INITIAL_LOOKBACK          = "2h"
      OVERLAP                   = "1h"
      SETTLE                    = "1m30s"
      MAX_LOOKBACK              = "48h"
      AUDIT_WINDOW              = "0"
      UPDATES_WINDOW            = "0"
      LEDGER_TTL                = "100h"
      MONITORS_CHECK            = "6h"
      MAX_ALERTS_PER_RUN        = "7"
      MAX_CONCURRENCY           = "3"
      MAX_QPS                   = "2.5"
      MAX_REQUESTS_PER_DAY      = "100"
      MAX_ERRORS_PER_HOUR       = "250"
      LOG_LEVEL                 = "debug"
      RUN_BUDGET                = "20m"
      CLOUD_RUN_TIMEOUT_SECONDS = "1770"
    }
    error_message = "environment of Ingest: ${jsonencode(local.ingest_environment)}"
  }
  assert {
    condition     = !contains(keys(local.sync_environment), "RUN_BUDGET") && local.sync_environment.CLOUD_RUN_TIMEOUT_SECONDS == "60"
    error_message = "a budget for Ingest would not fit SyncStatus's timeout"
  }
  assert {
    condition     = google_firestore_database.this[0].location_id == "eur3" && google_firestore_database.this[0].delete_protection_state == "DELETE_PROTECTION_DISABLED" && google_firestore_database.this[0].deletion_policy == "DELETE"
    error_message = "the database is where it is asked for, and destroy deletes it"
  }
  assert {
    condition     = length(google_secret_manager_secret.gti_api_key) == 0 && alltrue([for m in values(google_secret_manager_secret_iam_member.accessor) : m.project == "other-project" && m.secret_id == "key"])
    error_message = "an existing secret is granted, not made"
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "0 6 * * 1-5" && google_cloud_scheduler_job.ingest.time_zone == "Europe/Zurich" && google_cloud_scheduler_job.ingest.paused && google_cloud_scheduler_job.ingest.attempt_deadline == "1800s"
    error_message = "schedule"
  }
  assert {
    condition     = google_cloudfunctions2_function.sync.service_config[0].max_instance_count == 1 && google_cloudfunctions2_function.sync.service_config[0].max_instance_request_concurrency == 3 && google_cloudfunctions2_function.sync.service_config[0].available_memory == "2Gi" && google_cloudfunctions2_function.ingest.service_config[0].available_memory == "1Gi"
    error_message = "sizes"
  }
  assert {
    condition     = google_pubsub_topic.alerts.message_retention_duration == "2678400s" && google_pubsub_topic.alerts.labels == tomap({ app = "dtm-relay", feed = "emea", version = replace(local.version, ".", "-"), team = "soc" })
    error_message = "retention and labels"
  }
  assert {
    condition     = google_service_account.this["scheduler"].account_id == "relay-emea-scheduler" && google_storage_bucket.source[0].name == "my-project-relay-emea-source"
    error_message = "names with the feed"
  }
}

run "long_names_fit" {
  command = plan
  variables {
    project_id = "a-project-with-thirty-letters1"
    name       = "digital-threat-monitoring"
    feed       = "north-america1"
  }

  assert {
    condition     = alltrue([for a in values(google_service_account.this) : length(a.account_id) <= 30])
    error_message = "ids of service accounts have at most 30 characters"
  }
  assert {
    condition     = length(google_storage_bucket.source[0].name) <= 63
    error_message = "names of buckets have at most 63 characters"
  }
  assert {
    condition     = length(google_cloudfunctions2_function.ingest.name) <= 49
    error_message = "names of Cloud Run services have at most 49 characters"
  }
}

run "a_bucket_that_storage_takes" {
  command = plan
  variables {
    name = "google-dtm"
  }

  assert {
    condition     = can(regex("^my-project-[0-9a-f]{8}-source$", google_storage_bucket.source[0].name)) && google_cloudfunctions2_function.ingest.name == "google-dtm-ingest"
    error_message = "no google in a bucket's name: ${google_storage_bucket.source[0].name}"
  }
}

run "a_bucket_for_a_feed_misspelt" {
  command = plan
  variables {
    feed = "a-g00gle"
  }

  assert {
    condition     = can(regex("^my-project-[0-9a-f]{8}-source$", google_storage_bucket.source[0].name))
    error_message = "nor what looks like it: ${google_storage_bucket.source[0].name}"
  }
}

run "a_bucket_with_goo_in_its_name" {
  command = plan
  variables {
    feed = "googoo-gle"
  }

  assert {
    condition     = google_storage_bucket.source[0].name == "my-project-dtm-relay-googoo-gle-source"
    error_message = "other names stay"
  }
}

run "intervals" {
  command = plan
  variables {
    schedule = { interval_minutes = 60 }
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "0 * * * *"
    error_message = "every hour"
  }
}

run "interval_of_six_hours" {
  command = plan
  variables {
    schedule = { interval_minutes = 360 }
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "0 */6 * * *" && local.interval_minutes == 360
    error_message = "every six hours"
  }
}

run "interval_of_a_day" {
  command = plan
  variables {
    schedule = { interval_minutes = 1440 }
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "0 0 * * *"
    error_message = "every day"
  }
}

run "interval_of_a_minute" {
  command = plan
  variables {
    schedule = { interval_minutes = 1 }
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.schedule == "* * * * *"
    error_message = "every minute"
  }
}

run "database_policies" {
  command = plan

  assert {
    condition     = alltrue([for f in values(google_firestore_field.expiry) : length(f.ttl_config) == 1 && length(f.index_config) == 1 && length(f.index_config[0].indexes) == 0 && f.field == "expire_at"]) && toset(keys(google_firestore_field.expiry)) == toset(["alerts", "backfills"])
    error_message = "TTL on expire_at of alerts and backfills"
  }
  assert {
    condition     = length(google_firestore_field.ledger) > 0 && alltrue([for f in values(google_firestore_field.ledger) : f.collection == "alerts" && length(f.index_config) == 1 && length(f.index_config[0].indexes) == 0 && length(f.ttl_config) == 0])
    error_message = "no index on the ledger's fields"
  }
  assert {
    condition     = !contains(keys(google_firestore_field.ledger), "expire_at")
    error_message = "each field once"
  }
}

run "existing_database_of_another_instance" {
  command = plan
  variables {
    database = { existing = "(default)", policies = false }
  }
  assert {
    condition     = length(google_firestore_database.this) + length(google_firestore_field.expiry) + length(google_firestore_field.ledger) == 0 && local.ingest_environment.FIRESTORE_DATABASE == "(default)"
    error_message = "it is used, and nothing of it is changed"
  }
}

run "existing_database_without_policies_yet" {
  command = plan
  variables {
    database = { existing = "shared", policies = true }
  }
  assert {
    condition     = length(google_firestore_database.this) == 0 && length(google_firestore_field.expiry) == 2 && google_firestore_field.expiry["alerts"].database == "shared"
    error_message = "its policies are set"
  }
}

run "recovery" {
  command = plan
  variables {
    database = { point_in_time_recovery = true, daily_backup_days = 7, weekly_backup_days = 98 }
  }
  assert {
    condition     = google_firestore_database.this[0].point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_ENABLED"
    error_message = "point-in-time recovery"
  }
  assert {
    condition = { for kind, s in google_firestore_backup_schedule.this : kind => "${s.database} ${s.retention} ${length(s.daily_recurrence)} ${join("", s.weekly_recurrence[*].day)}" } == {
      daily  = "dtm-relay 604800s 1 "
      weekly = "dtm-relay 8467200s 0 SUNDAY"
    }
    error_message = "a schedule of each kind"
  }
}

run "backups_of_an_existing_database" {
  command = plan
  variables {
    database = { existing = "shared", policies = true, daily_backup_days = 1 }
  }
  assert {
    condition     = toset(keys(google_firestore_backup_schedule.this)) == toset(["daily"]) && google_firestore_backup_schedule.this["daily"].database == "shared"
    error_message = "the instance that sets its policies sets its backups"
  }
}
