# Every right of every identity, compared with the table in docs/security.md.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}
mock_provider "archive" {}
mock_provider "time" {}

override_resource {
  target = google_service_account.this["ingest"]
  values = { member = "ingest", email = "ingest@example.com", name = "projects/my-project/serviceAccounts/ingest" }
}
override_resource {
  target = google_service_account.this["sync"]
  values = { member = "sync", email = "sync@example.com", name = "projects/my-project/serviceAccounts/sync" }
}
override_resource {
  target = google_service_account.this["scheduler"]
  values = { member = "scheduler", email = "scheduler@example.com", name = "projects/my-project/serviceAccounts/scheduler" }
}
override_resource {
  target = google_service_account.this["push"]
  values = { member = "push", email = "push@example.com", name = "projects/my-project/serviceAccounts/push" }
}
override_resource {
  target = google_service_account.this["alerts"]
  values = { member = "alerts", email = "alerts@example.com", name = "projects/my-project/serviceAccounts/alerts" }
}
override_resource {
  target = google_service_account.this["bigquery"]
  values = { member = "bigquery", email = "bigquery@example.com", name = "projects/my-project/serviceAccounts/bigquery" }
}
override_resource {
  target = google_service_account.this["build"]
  values = { member = "build", email = "build@example.com", name = "projects/my-project/serviceAccounts/build" }
}
override_resource {
  target = google_project_iam_custom_role.database
  values = { id = "projects/my-project/roles/dtm_relay_state" }
}
override_resource {
  target = google_artifact_registry_repository.images
  values = { name = "dtm-relay" }
}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
  alert_subscriptions = {
    pulled = {}
    siem   = { subscribers = ["serviceAccount:siem@my-project.iam.gserviceaccount.com", "group:soc@example.com"] }
    table  = { bigquery_table = "data-project.dtm.alerts" }
    soar   = { push_endpoint = "https://soar.example.com/hook" }
  }
  bigquery = {}
  archive  = {}
  notify   = { chat = { to = "slack", url = "https://hooks.example.com/services/a" } }

  operators         = ["ana@example.com", "runner@my-project.iam.gserviceaccount.com"]
  viewers           = ["ben@example.com"]
  status_publishers = ["serviceAccount:soar@my-project.iam.gserviceaccount.com"]
  alert_subscribers = ["group:soc@example.com"]
}

run "every_grant" {
  command = apply

  assert {
    condition = toset(concat(
      [for m in concat(values(google_pubsub_topic_iam_member.publisher), values(google_pubsub_topic_iam_member.status_publishers)) : "${m.member} ${m.role} topic ${m.topic}"],
      [for m in values(google_pubsub_topic_iam_member.agent_dead_letters) : "${m.member} ${m.role} topic ${m.topic}"],
      [for m in concat([google_pubsub_subscription_iam_member.agent_status], values(google_pubsub_subscription_iam_member.agent_alerts), values(google_pubsub_subscription_iam_member.agent_consumers), values(google_pubsub_subscription_iam_member.alert_subscribers)) : "${m.member} ${m.role} subscription ${m.subscription}"],
      [for m in values(google_secret_manager_secret_iam_member.accessor) : "${m.member} ${m.role} secret ${m.project} ${m.secret_id}"],
      [for m in concat([google_cloud_run_v2_service_iam_member.scheduler, google_cloud_run_v2_service_iam_member.push], values(google_cloud_run_v2_service_iam_member.callers)) : "${m.member} ${m.role} service ${m.location} ${m.name}"],
      [for m in [google_artifact_registry_repository_iam_member.build] : "${m.member} ${m.role} repository ${m.location} ${m.repository}"],
      [for m in concat([google_storage_bucket_iam_member.build], values(google_storage_bucket_iam_member.agent_archive)) : "${m.member} ${m.role} bucket ${m.bucket}"],
      [for m in concat(values(google_service_account_iam_member.agent_push), google_service_account_iam_member.agent_bigquery) : "${m.member} ${m.role} account ${m.service_account_id}"],
      [for m in concat(values(google_bigquery_table_iam_member.alerts), google_bigquery_table_iam_member.bigquery) : "${m.member} ${m.role} table ${m.project}.${m.dataset_id}.${m.table_id}"],
      [for m in concat([google_project_iam_member.build_logs, google_project_iam_member.build_source], values(google_project_iam_member.database)) : join(" ", concat(["${m.member} ${m.role} project ${m.project}"], [for c in m.condition : "if ${c.expression}"]))],
      )) == toset([
      "ingest roles/pubsub.publisher topic dtm-alerts",
      "ingest roles/pubsub.publisher topic dtm-rejects",
      "ingest roles/secretmanager.secretAccessor secret my-project dtm-relay-gti-api-key",
      "ingest projects/my-project/roles/dtm_relay_state project my-project if resource.name == \"projects/my-project/databases/dtm-relay\"",

      "sync roles/pubsub.publisher topic dtm-rejects",
      "sync roles/secretmanager.secretAccessor secret my-project dtm-relay-gti-api-key",
      "sync projects/my-project/roles/dtm_relay_state project my-project if resource.name == \"projects/my-project/databases/dtm-relay\"",

      "scheduler roles/run.invoker service us-central1 dtm-relay-ingest",
      "push roles/run.invoker service us-central1 dtm-relay-sync",
      "user:ana@example.com roles/run.invoker service us-central1 dtm-relay-ingest",
      "serviceAccount:runner@my-project.iam.gserviceaccount.com roles/run.invoker service us-central1 dtm-relay-ingest",
      "user:ben@example.com roles/run.invoker service us-central1 dtm-relay-ingest",

      "serviceAccount:soar@my-project.iam.gserviceaccount.com roles/pubsub.publisher topic dtm-status-updates",
      # Who is named for all that are pulled, and who for one alone.
      "group:soc@example.com roles/pubsub.subscriber subscription dtm-alerts-pulled",
      "group:soc@example.com roles/pubsub.subscriber subscription dtm-alerts-siem",
      "serviceAccount:siem@my-project.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-siem",

      "bigquery roles/bigquery.dataEditor table data-project.dtm.alerts",
      "bigquery roles/bigquery.dataEditor table my-project.dtm_relay.alerts",

      "build roles/logging.logWriter project my-project",
      "build roles/artifactregistry.writer repository us-central1 dtm-relay",
      "build roles/storage.objectViewer bucket my-project-dtm-relay-source",
      "build roles/storage.objectViewer project my-project if resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-us-central1/objects/dtm-relay-ingest/\") || resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-us-central1/objects/dtm-relay-sync/\")",

      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.publisher topic dtm-dead-letters",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.publisher topic dtm-alert-dead-letters",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-status-updates-push",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/iam.serviceAccountOpenIdTokenCreator account projects/my-project/serviceAccounts/push",
      # Only for the subscriptions that are asked for.
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-table",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-soar",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/iam.serviceAccountOpenIdTokenCreator account projects/my-project/serviceAccounts/alerts",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/iam.serviceAccountTokenCreator account projects/my-project/serviceAccounts/bigquery",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-bigquery",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-archive",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/pubsub.subscriber subscription dtm-alerts-notify-chat",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/storage.objectCreator bucket my-project-dtm-relay-archive",
      "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com roles/storage.legacyBucketReader bucket my-project-dtm-relay-archive",
    ])
    error_message = "The grants are not those of the table."
  }

  # So that the list above is all there is.
  assert {
    condition = toset(flatten([for f in fileset(path.module, "*.tf") :
      [for r in regexall("(?m)^\\s*resource\\s+\"(\\w*(?:_iam_|_acl|_access_control|_policy_binding)\\w*)\"\\s+\"(\\w+)\"", file("${path.module}/${f}")) : join(".", r)]
      ])) == toset([
      "google_pubsub_topic_iam_member.publisher",
      "google_pubsub_topic_iam_member.status_publishers",
      "google_pubsub_topic_iam_member.agent_dead_letters",
      "google_pubsub_subscription_iam_member.agent_status",
      "google_pubsub_subscription_iam_member.agent_alerts",
      "google_pubsub_subscription_iam_member.agent_consumers",
      "google_pubsub_subscription_iam_member.alert_subscribers",
      "google_secret_manager_secret_iam_member.accessor",
      "google_cloud_run_v2_service_iam_member.scheduler",
      "google_cloud_run_v2_service_iam_member.push",
      "google_cloud_run_v2_service_iam_member.callers",
      "google_artifact_registry_repository_iam_member.build",
      "google_storage_bucket_iam_member.build",
      "google_service_account_iam_member.agent_push",
      "google_service_account_iam_member.agent_bigquery",
      "google_bigquery_table_iam_member.alerts",
      "google_bigquery_table_iam_member.bigquery",
      "google_storage_bucket_iam_member.agent_archive",
      "google_kms_crypto_key_iam_member.agents",
      "google_project_iam_member.build_logs",
      "google_project_iam_member.build_source",
      "google_project_iam_member.database",
      "google_project_iam_custom_role.database",
    ])
    error_message = "A resource that grants rights is not in the list of this test."
  }

  assert {
    condition     = length([for f in fileset(path.module, "*.tf") : f if strcontains(join("\n", [for line in split("\n", file("${path.module}/${f}")) : line if !startswith(trimspace(line), "#")]), "allUsers") || strcontains(file("${path.module}/${f}"), "allAuthenticatedUsers") || can(regex("roles/(owner|editor|viewer)\"", file("${path.module}/${f}")))]) == 0
    error_message = "Nothing is public, and nobody has a basic role."
  }
  assert {
    condition     = alltrue([for b in concat(google_storage_bucket.source, google_storage_bucket.archive) : b.public_access_prevention == "enforced" && b.uniform_bucket_level_access])
    error_message = "The buckets can't be made public."
  }
}

run "each_does_its_work_under_its_own_name" {
  command = apply

  assert {
    condition = [
      google_cloudfunctions2_function.ingest.service_config[0].service_account_email,
      google_cloudfunctions2_function.sync.service_config[0].service_account_email,
      google_cloud_scheduler_job.ingest.http_target[0].oidc_token[0].service_account_email,
      google_pubsub_subscription.status_push.push_config[0].oidc_token[0].service_account_email,
      google_pubsub_subscription.alerts["soar"].push_config[0].oidc_token[0].service_account_email,
      google_pubsub_subscription.alerts["table"].bigquery_config[0].service_account_email,
      google_pubsub_subscription.bigquery[0].bigquery_config[0].service_account_email,
    ] == ["ingest@example.com", "sync@example.com", "scheduler@example.com", "push@example.com", "alerts@example.com", "bigquery@example.com", "bigquery@example.com"]
    error_message = "Who runs as whom."
  }
  assert {
    condition     = google_cloudfunctions2_function.ingest.build_config[0].service_account == google_service_account.this["build"].name && google_cloudfunctions2_function.sync.build_config[0].service_account == google_service_account.this["build"].name
    error_message = "Both are built by the build's account."
  }
  assert {
    condition     = { for purpose, a in google_service_account.this : purpose => a.account_id } == { for purpose in ["ingest", "sync", "scheduler", "push", "alerts", "bigquery", "build"] : purpose => "dtm-relay-${purpose}" }
    error_message = "An account for each purpose."
  }
  assert {
    condition     = length(google_pubsub_subscription.notify["chat"].push_config[0].oidc_token) == 0
    error_message = "A chat gets no token of an account."
  }
}

run "the_function_knows_who_may" {
  command = apply

  assert {
    condition     = local.ingest_environment.OPERATORS == "[\"scheduler@example.com\",\"ana@example.com\",\"runner@my-project.iam.gserviceaccount.com\"]" && local.ingest_environment.VIEWERS == "[\"ben@example.com\"]"
    error_message = "Operators, Cloud Scheduler among them, and viewers: ${local.ingest_environment.OPERATORS} ${local.ingest_environment.VIEWERS}"
  }
  assert {
    condition     = !contains(keys(local.sync_environment), "OPERATORS") && !contains(keys(local.sync_environment), "VIEWERS")
    error_message = "Pub/Sub alone calls SyncStatus."
  }
}

run "the_database_s_role" {
  command = plan

  assert {
    condition     = google_project_iam_custom_role.database.permissions == toset(["datastore.entities.create", "datastore.entities.get", "datastore.entities.list", "datastore.entities.update"]) && google_project_iam_custom_role.database.role_id == "dtm_relay_state"
    error_message = "Reading and writing of documents, and no deleting."
  }
}

run "without_subscriptions_no_further_rights" {
  command = plan
  variables {
    alert_subscriptions = {}
    bigquery            = null
    archive             = null
    notify              = {}
    operators           = []
    viewers             = []
    status_publishers   = []
    alert_subscribers   = []
  }
  assert {
    condition = sum([for grants in [
      google_pubsub_subscription_iam_member.agent_alerts, google_bigquery_table_iam_member.alerts,
      google_pubsub_subscription_iam_member.agent_consumers, google_bigquery_table_iam_member.bigquery, google_storage_bucket_iam_member.agent_archive,
      google_service_account_iam_member.agent_bigquery, google_pubsub_topic_iam_member.status_publishers,
      google_pubsub_subscription_iam_member.alert_subscribers, google_cloud_run_v2_service_iam_member.callers,
      google_kms_crypto_key_iam_member.agents,
    ] : length(grants)]) == 0
    error_message = "Nobody gets what is not asked for."
  }
  assert {
    condition     = toset(keys(google_service_account.this)) == toset(["ingest", "sync", "scheduler", "push", "build"]) && toset(keys(google_service_account_iam_member.agent_push)) == toset(["push"])
    error_message = "Five accounts, and Pub/Sub signs for one."
  }
  assert {
    condition     = local.ingest_environment.OPERATORS == "[]" && local.ingest_environment.VIEWERS == "[]"
    error_message = "Whoever has roles/run.invoker may write."
  }
}

run "a_database_that_exists" {
  command = plan
  variables {
    database = { existing = "shared", policies = false }
  }
  assert {
    condition     = alltrue([for m in values(google_project_iam_member.database) : m.condition[0].expression == "resource.name == \"projects/my-project/databases/shared\""])
    error_message = "The right is on that database alone."
  }
}

run "the_copy_of_the_source_with_a_key" {
  command = plan
  variables {
    kms_key = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm" }
    # Those in the state have no key, and take none later.
    database = { existing = "shared", policies = false }
    secret   = { existing = "key" }
  }
  assert {
    condition     = google_project_iam_member.build_source.condition[0].expression == "(resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-us-central1-\") && resource.name.extract(\"/objects/{folder}/\") == \"dtm-relay-ingest\") || (resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-123456789012-us-central1-\") && resource.name.extract(\"/objects/{folder}/\") == \"dtm-relay-sync\")"
    error_message = "The bucket's name goes on with a hash of the key: ${google_project_iam_member.build_source.condition[0].expression}"
  }
}
