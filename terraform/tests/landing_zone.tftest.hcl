# What a landing zone asks for: each input's effect, and that nothing is set without it.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { notification_channels = ["projects/my-project/notificationChannels/1"] }
  bigquery   = {}
  archive    = {}
}

run "nothing_unless_asked_for" {
  command = plan

  assert {
    condition = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] :
      f.kms_key_name == null && f.service_config[0].vpc_connector == null && f.service_config[0].vpc_connector_egress_settings == null && f.build_config[0].worker_pool == null
    ]) && google_cloudfunctions2_function.ingest.service_config[0].ingress_settings == "ALLOW_ALL"
    error_message = "The functions are on Google's network, with Google's keys and builders."
  }
  assert {
    condition = alltrue([for t in [google_pubsub_topic.alerts, google_pubsub_topic.rejects, google_pubsub_topic.status, google_pubsub_topic.dead_letters] :
      t.kms_key_name == null && length(t.message_storage_policy) == 0
    ])
    error_message = "Topics."
  }
  assert {
    condition     = length(google_firestore_database.this[0].cmek_config) == 0 && google_artifact_registry_repository.images.kms_key_name == null && length(google_bigquery_dataset.alerts[0].default_encryption_configuration) == 0
    error_message = "Database, images, data set."
  }
  assert {
    condition     = length(google_secret_manager_secret.gti_api_key[0].replication[0].auto) == 1 && length(google_secret_manager_secret.gti_api_key[0].replication[0].user_managed) == 0
    error_message = "Google chooses where the secret is."
  }
  assert {
    condition     = google_storage_bucket.source[0].soft_delete_policy[0].retention_duration_seconds == 0 && length(google_storage_bucket.archive[0].soft_delete_policy) == 0 && alltrue([for b in concat(google_storage_bucket.source, google_storage_bucket.archive) : length(b.encryption) == 0])
    error_message = "Buckets."
  }
  assert {
    condition     = time_sleep.kms.create_duration == "0s" && length(google_kms_crypto_key_iam_member.agents) == 0
    error_message = "No grant on a key is made or waited for."
  }
  assert {
    condition     = !contains(keys(google_project_service.this), "vpcaccess.googleapis.com")
    error_message = "Nobody goes by a connector."
  }
}

run "way_in_and_out" {
  command = plan
  variables {
    ingest  = { ingress = "ALLOW_INTERNAL_ONLY" }
    network = { connector = "projects/net/locations/us-central1/connectors/relay" }
    build   = { worker_pool = "projects/net/locations/us-central1/workerPools/private" }
  }
  assert {
    condition = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] :
      f.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY" &&
      f.service_config[0].vpc_connector == "projects/net/locations/us-central1/connectors/relay" &&
      f.service_config[0].vpc_connector_egress_settings == "ALL_TRAFFIC" &&
      f.build_config[0].worker_pool == "projects/net/locations/us-central1/workerPools/private"
    ])
    error_message = "Both functions go by the connector, and are built in the pool."
  }
  assert {
    condition     = contains(keys(google_project_service.this), "vpcaccess.googleapis.com")
    error_message = "A connector needs its service."
  }
}

run "egress" {
  command = plan
  variables {
    network = { connector = "relay", egress = "PRIVATE_RANGES_ONLY" }
  }
  assert {
    condition     = google_cloudfunctions2_function.sync.service_config[0].vpc_connector_egress_settings == "PRIVATE_RANGES_ONLY"
    error_message = "What goes through the connector."
  }
}

run "a_key_of_ones_own" {
  command = plan
  variables {
    kms_key = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm" }
  }
  assert {
    condition = toset(concat(
      [for t in [google_pubsub_topic.alerts, google_pubsub_topic.rejects, google_pubsub_topic.status, google_pubsub_topic.dead_letters] : t.kms_key_name],
      [for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] : f.kms_key_name],
      [google_firestore_database.this[0].cmek_config[0].kms_key_name],
      [google_artifact_registry_repository.images.kms_key_name],
      [for b in concat(google_storage_bucket.source, google_storage_bucket.archive) : b.encryption[0].default_kms_key_name],
      [google_bigquery_dataset.alerts[0].default_encryption_configuration[0].kms_key_name],
      [google_secret_manager_secret.gti_api_key[0].replication[0].user_managed[0].replicas[0].customer_managed_encryption[0].kms_key_name],
    )) == toset(["projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm"])
    error_message = "Everything that stores has the key."
  }
  assert {
    condition     = [for r in google_secret_manager_secret.gti_api_key[0].replication[0].user_managed[0].replicas : r.location] == ["us-central1"]
    error_message = "The secret is where the key is."
  }
  assert {
    condition     = time_sleep.kms.create_duration == "120s" && alltrue([for m in values(google_kms_crypto_key_iam_member.agents) : m.crypto_key_id == var.kms_key.name && m.role == "roles/cloudkms.cryptoKeyEncrypterDecrypter"])
    error_message = "Google's accounts get the right, and it is waited for."
  }
  # So that nothing that takes a key is forgotten. Terraform's own resources of these
  # kinds, and what names the key in them.
  assert {
    condition = alltrue([for f in fileset(path.module, "*.tf") :
      length(regexall("(?m)^resource \"google_(pubsub_topic|storage_bucket|firestore_database|secret_manager_secret|artifact_registry_repository|cloudfunctions2_function|bigquery_dataset)\"", file("${path.module}/${f}"))) <=
      length(regexall("local\\.kms_key_name(\\[\\*\\])?\n", file("${path.module}/${f}")))
    ])
    error_message = "A resource that stores something doesn't name local.kms_key_name."
  }
}

run "a_key_whose_grants_are_made_elsewhere" {
  command = plan
  variables {
    kms_key  = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm", grants = false }
    database = { existing = "shared", policies = false }
    secret   = { existing = "key" }
  }
  assert {
    condition     = length(google_kms_crypto_key_iam_member.agents) == 0 && time_sleep.kms.create_duration == "0s" && google_pubsub_topic.alerts.kms_key_name != null
    error_message = "The key is used, and no grant on it is made."
  }
}

run "a_key_for_what_exists" {
  command = plan
  variables {
    kms_key  = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm" }
    database = { existing = "shared", policies = false }
    secret   = { existing = "key" }
    bigquery = null
  }
  assert {
    condition     = toset(keys(google_kms_crypto_key_iam_member.agents)) == toset(["firestore", "functions", "images", "pubsub", "run", "secret", "storage"])
    error_message = "A database or secret that was made here and is named in existing now keeps its key; BigQuery isn't used."
  }
}

run "where_things_lie" {
  command = plan
  variables {
    topics = { regions = ["europe-west1", "europe-west4"] }
    secret = { locations = ["europe-west1", "europe-west4"] }
  }
  assert {
    condition = alltrue([for t in [google_pubsub_topic.alerts, google_pubsub_topic.rejects, google_pubsub_topic.status, google_pubsub_topic.dead_letters] :
      t.message_storage_policy[0].allowed_persistence_regions == toset(["europe-west1", "europe-west4"])
    ])
    error_message = "Messages of every topic."
  }
  assert {
    condition     = length(regexall("resource \"google_pubsub_topic\"", file("${path.module}/topics.tf"))) == length(regexall("dynamic \"message_storage_policy\"", file("${path.module}/topics.tf")))
    error_message = "A topic in topics.tf has no message_storage_policy."
  }
  assert {
    condition     = [for r in google_secret_manager_secret.gti_api_key[0].replication[0].user_managed[0].replicas : r.location] == ["europe-west1", "europe-west4"] && length(google_secret_manager_secret.gti_api_key[0].replication[0].auto) == 0
    error_message = "The secret's replicas."
  }
}

run "service_accounts_that_exist" {
  command = plan
  variables {
    alert_subscriptions = { soar = { push_endpoint = "https://soar.example.com/hook" } }
    service_accounts = {
      ingest    = "relay-ingest@my-project.iam.gserviceaccount.com"
      sync      = "relay-sync@my-project.iam.gserviceaccount.com"
      scheduler = "relay-scheduler@my-project.iam.gserviceaccount.com"
      push      = "relay-push@my-project.iam.gserviceaccount.com"
      alerts    = "relay-alerts@my-project.iam.gserviceaccount.com"
      bigquery  = "relay-bigquery@my-project.iam.gserviceaccount.com"
      build     = "relay-build@my-project.iam.gserviceaccount.com"
    }
    operators = ["ana@example.com"]
  }
  assert {
    condition     = length(google_service_account.this) == 0 && output.service_accounts.ingest == "relay-ingest@my-project.iam.gserviceaccount.com" && length(output.service_accounts) == 7
    error_message = "None is made."
  }
  assert {
    condition = (
      google_cloudfunctions2_function.ingest.service_config[0].service_account_email == "relay-ingest@my-project.iam.gserviceaccount.com" &&
      google_cloudfunctions2_function.sync.build_config[0].service_account == "projects/my-project/serviceAccounts/relay-build@my-project.iam.gserviceaccount.com" &&
      google_service_account_iam_member.agent_push["alerts"].service_account_id == "projects/my-project/serviceAccounts/relay-alerts@my-project.iam.gserviceaccount.com" &&
      google_cloud_run_v2_service_iam_member.scheduler.member == "serviceAccount:relay-scheduler@my-project.iam.gserviceaccount.com"
    )
    error_message = "They work, and get what they need."
  }
  assert {
    condition     = local.ingest_environment.OPERATORS == "[\"relay-scheduler@my-project.iam.gserviceaccount.com\",\"ana@example.com\"]"
    error_message = local.ingest_environment.OPERATORS
  }
}

run "one_service_account_that_exists" {
  command = plan
  variables {
    # There is nothing to push: this one is not used.
    service_accounts = { build = "relay-build@my-project.iam.gserviceaccount.com", alerts = "relay-alerts@my-project.iam.gserviceaccount.com" }
  }
  assert {
    condition     = toset(keys(google_service_account.this)) == toset(["ingest", "sync", "scheduler", "push", "bigquery"]) && !contains(keys(local.accounts), "alerts")
    error_message = "The others are made."
  }
}

run "soft_delete" {
  command = plan
  variables {
    soft_delete_days = 7
  }
  assert {
    condition     = alltrue([for b in concat(google_storage_bucket.source, google_storage_bucket.archive) : b.soft_delete_policy[0].retention_duration_seconds == 604800])
    error_message = "Both buckets."
  }
}

run "a_source_from_a_pipeline" {
  command = plan
  variables {
    source_object = { bucket = "pipeline-artifacts", object = "dtm-relay/1.0.0.zip" }
  }
  assert {
    condition     = length(data.archive_file.source) + length(google_storage_bucket.source) + length(google_storage_bucket_object.source) == 0
    error_message = "Nothing is zipped, and no bucket is made for it."
  }
  assert {
    condition = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] :
      f.build_config[0].source[0].storage_source[0].bucket == "pipeline-artifacts" && f.build_config[0].source[0].storage_source[0].object == "dtm-relay/1.0.0.zip"
    ]) && google_storage_bucket_iam_member.build.bucket == "pipeline-artifacts"
    error_message = "Both are built from it, and the build may read it."
  }
}

run "labels" {
  command = plan
  variables {
    labels              = { cost_center = "4711" }
    alert_subscriptions = { pulled = {} }
    notify              = { chat = { to = "slack", url = "https://hooks.example.com/services/a" } }
    monitoring          = { emails = ["soc@example.com"] }
  }
  assert {
    condition = alltrue([for labels in concat(
      [for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] : f.labels],
      [for t in [google_pubsub_topic.alerts, google_pubsub_topic.rejects, google_pubsub_topic.status, google_pubsub_topic.dead_letters, google_pubsub_topic.alert_dead_letters] : t.labels],
      [for s in [google_pubsub_subscription.status_push, google_pubsub_subscription.rejects, google_pubsub_subscription.dead_letters, google_pubsub_subscription.alert_dead_letters] : s.labels],
      [for s in [google_pubsub_subscription.alerts["pulled"], google_pubsub_subscription.bigquery[0], google_pubsub_subscription.archive[0], google_pubsub_subscription.notify["chat"]] : s.labels],
      [for t in concat(google_bigquery_table.alerts, google_bigquery_table.current, values(google_bigquery_table.view)) : t.labels],
      [google_artifact_registry_repository.images.labels, google_secret_manager_secret.gti_api_key[0].labels, google_storage_bucket.source[0].labels, google_storage_bucket.archive[0].labels, google_bigquery_dataset.alerts[0].labels],
      [for c in values(google_monitoring_notification_channel.email) : c.user_labels],
      [for p in values(google_monitoring_alert_policy.this) : p.user_labels],
    ) : labels == tomap(local.labels)]) && local.labels.cost_center == "4711"
    error_message = "On everything that takes some."
  }
  # So that nothing that takes labels is forgotten.
  assert {
    condition = alltrue([for f in fileset(path.module, "*.tf") :
      length(regexall("(?m)^resource \"google_(pubsub_topic|pubsub_subscription|storage_bucket|secret_manager_secret|artifact_registry_repository|cloudfunctions2_function|bigquery_dataset|bigquery_table|monitoring_notification_channel|monitoring_alert_policy)\"", file("${path.module}/${f}"))) ==
      length(regexall("(?m)^  (user_)?labels += local\\.labels$", file("${path.module}/${f}")))
    ])
    error_message = "A resource that takes labels doesn't have local.labels."
  }
}

# The last, because it leaves a database with a key in the state.
run "whose_key_it_is" {
  command = apply
  variables {
    kms_key = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm" }
  }
  assert {
    condition = toset([for m in values(google_kms_crypto_key_iam_member.agents) : m.member]) == toset([
      "serviceAccount:service-123456789012@gcf-admin-robot.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gcp-sa-artifactregistry.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@serverless-robot-prod.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gcp-sa-firestore.iam.gserviceaccount.com",
      "serviceAccount:service-123456789012@gcp-sa-secretmanager.iam.gserviceaccount.com",
      "serviceAccount:bq-123456789012@bigquery-encryption.iam.gserviceaccount.com",
    ])
    error_message = "Google's accounts of the services, and nobody else."
  }
}
