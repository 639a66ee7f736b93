# A function without a grant of roles/run.invoker to allUsers asks every caller
# for an identity token: nothing here makes such a grant.

resource "google_cloudfunctions2_function" "ingest" {
  project     = var.project_id
  location    = var.region
  name        = "${local.name}-ingest"
  description = "Relays DTM alerts into Pub/Sub (feed ${var.feed})"
  labels      = local.labels

  # The repository of the images has to have the same key.
  kms_key_name = local.kms_key_name

  build_config {
    runtime           = var.runtime
    entry_point       = "Ingest"
    service_account   = local.accounts.build.name
    docker_repository = google_artifact_registry_repository.images.id
    worker_pool       = var.build.worker_pool

    source {
      storage_source {
        bucket = local.source.bucket
        object = local.source.object
      }
    }

    automatic_update_policy {}
  }

  service_config {
    service_account_email            = local.accounts.ingest.email
    environment_variables            = local.ingest_environment
    timeout_seconds                  = var.ingest.timeout_seconds
    available_memory                 = var.ingest.memory
    available_cpu                    = "1"
    min_instance_count               = 0
    max_instance_count               = 1  # one run at a time; a lease in Firestore keeps the promise when there are two
    max_instance_request_concurrency = 16 # so that /status is answered during a run
    ingress_settings                 = var.ingest.ingress
    vpc_connector                    = local.connector
    vpc_connector_egress_settings    = local.egress
    all_traffic_on_latest_revision   = true
  }

  lifecycle {
    precondition {
      condition     = local.environment_bytes <= 32000
      error_message = "The environment of Ingest has ${local.environment_bytes} bytes, and 32000 are allowed: make rules, gti.filter, redact, operators or viewers shorter."
    }
  }

  depends_on = [
    google_firestore_field.expiry,
    google_firestore_field.ledger,
    google_project_iam_member.database,
    google_pubsub_topic_iam_member.publisher,
    google_secret_manager_secret_iam_member.accessor,
    time_sleep.build,
  ]
}

resource "google_cloudfunctions2_function" "sync" {
  project     = var.project_id
  location    = var.region
  name        = "${local.name}-sync"
  description = "Writes status changes back to Google Threat Intelligence (feed ${var.feed})"
  labels      = local.labels

  # The repository of the images has to have the same key.
  kms_key_name = local.kms_key_name

  build_config {
    runtime           = var.runtime
    entry_point       = "SyncStatus"
    service_account   = local.accounts.build.name
    docker_repository = google_artifact_registry_repository.images.id
    worker_pool       = var.build.worker_pool

    source {
      storage_source {
        bucket = local.source.bucket
        object = local.source.object
      }
    }

    automatic_update_policy {}
  }

  service_config {
    service_account_email            = local.accounts.sync.email
    environment_variables            = local.sync_environment
    timeout_seconds                  = var.sync.timeout_seconds
    available_memory                 = var.sync.memory
    available_cpu                    = "1" # less allows only one request at a time
    min_instance_count               = 0
    max_instance_count               = var.sync.max_instances
    max_instance_request_concurrency = var.sync.concurrency
    ingress_settings                 = "ALLOW_INTERNAL_ONLY" # a push of this project's Pub/Sub to run.app is internal
    vpc_connector                    = local.connector
    vpc_connector_egress_settings    = local.egress
    all_traffic_on_latest_revision   = true
  }

  depends_on = [
    google_firestore_field.expiry,
    google_firestore_field.ledger,
    google_project_iam_member.database,
    google_pubsub_topic_iam_member.publisher,
    google_secret_manager_secret_iam_member.accessor,
    time_sleep.build,
  ]
}
