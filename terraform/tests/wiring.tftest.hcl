# That the parts fit each other.

mock_provider "google" {}
mock_provider "time" {}

mock_provider "archive" {
  mock_data "archive_file" {
    defaults = { output_sha256 = "0123abcd" }
  }
}

override_resource {
  target = google_cloudfunctions2_function.ingest
  values = { service_config = { uri = "https://ingest.example.run.app" } }
}
override_resource {
  target = google_cloudfunctions2_function.sync
  values = { service_config = { uri = "https://sync.example.run.app" } }
}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "functions" {
  command = apply

  assert {
    condition     = google_cloudfunctions2_function.ingest.build_config[0].entry_point == "Ingest" && google_cloudfunctions2_function.sync.build_config[0].entry_point == "SyncStatus"
    error_message = "the entry points of function.go"
  }
  assert {
    condition = alltrue([for s in [google_cloudfunctions2_function.ingest.service_config[0]] :
      s.max_instance_count == 1 && s.max_instance_request_concurrency == 16 && s.available_cpu == "1" && s.available_memory == "512Mi" && s.ingress_settings == "ALLOW_ALL"
    ])
    error_message = "size of Ingest"
  }
  assert {
    condition     = google_cloudfunctions2_function.sync.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY" && google_cloudfunctions2_function.sync.service_config[0].available_cpu == "1"
    error_message = "SyncStatus is reached from inside only"
  }
  assert {
    condition     = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] : f.service_config[0].all_traffic_on_latest_revision && length(f.build_config[0].automatic_update_policy) == 1])
    error_message = "all traffic to the latest revision, which gets security updates by itself"
  }
  assert {
    condition     = var.gti.max_concurrency + google_cloudfunctions2_function.sync.service_config[0].max_instance_count * google_cloudfunctions2_function.sync.service_config[0].max_instance_request_concurrency <= 10
    error_message = "the API's 10 requests at a time, for both functions"
  }
}

run "timeouts_fit" {
  command = apply

  assert {
    condition     = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] : f.service_config[0].environment_variables.CLOUD_RUN_TIMEOUT_SECONDS == tostring(f.service_config[0].timeout_seconds)])
    error_message = "the functions know their own timeout"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_scheduler_job.ingest.attempt_deadline, "s")) > google_cloudfunctions2_function.ingest.service_config[0].timeout_seconds
    error_message = "Cloud Scheduler waits longer than a run takes"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_scheduler_job.ingest.attempt_deadline, "s")) <= 1800
    error_message = "Cloud Scheduler waits 30 minutes at most"
  }
  assert {
    condition     = google_pubsub_subscription.status_push.ack_deadline_seconds > google_cloudfunctions2_function.sync.service_config[0].timeout_seconds
    error_message = "Pub/Sub waits longer than a write-back takes"
  }
}

run "the_schedule_calls_ingest" {
  command = apply

  assert {
    condition = alltrue([for t in [google_cloud_scheduler_job.ingest.http_target[0]] :
      t.http_method == "POST" && t.uri == "https://ingest.example.run.app/" && t.oidc_token[0].audience == "https://ingest.example.run.app"
    ])
    error_message = "POST / of Ingest, with a token for its address: ${jsonencode(google_cloud_scheduler_job.ingest.http_target)}"
  }
  assert {
    condition     = google_cloud_scheduler_job.ingest.retry_config[0].retry_count == 2
    error_message = "a failed run is tried again"
  }
}

run "status_updates_are_pushed_to_sync" {
  command = apply

  assert {
    condition = alltrue([for p in [google_pubsub_subscription.status_push.push_config[0]] :
      p.push_endpoint == "https://sync.example.run.app" && p.oidc_token[0].audience == p.push_endpoint
    ])
    error_message = "the service's own address, and a token for it: ${jsonencode(google_pubsub_subscription.status_push.push_config)}"
  }
  assert {
    condition = alltrue([for s in [google_pubsub_subscription.status_push] :
      s.topic == google_pubsub_topic.status.id && s.ack_deadline_seconds == 600 && s.expiration_policy[0].ttl == "" &&
      s.retry_policy[0].minimum_backoff == "10s" && s.retry_policy[0].maximum_backoff == "600s" &&
      s.dead_letter_policy[0].max_delivery_attempts == 100 && s.dead_letter_policy[0].dead_letter_topic == google_pubsub_topic.dead_letters.id
    ])
    error_message = "back-off 10 to 600 s, dead letter after 100 attempts, no expiry"
  }
}

run "what_fails_is_kept" {
  command = apply

  assert {
    condition = alltrue([for s in [google_pubsub_subscription.rejects, google_pubsub_subscription.dead_letters, google_pubsub_subscription.alert_dead_letters] :
      s.expiration_policy[0].ttl == "" && s.message_retention_duration == "2678400s" && length(s.push_config) == 0
    ])
    error_message = "pulled, without expiry, kept as long as Pub/Sub can"
  }
  assert {
    condition     = google_pubsub_subscription.rejects.topic == google_pubsub_topic.rejects.id && google_pubsub_subscription.dead_letters.topic == google_pubsub_topic.dead_letters.id && google_pubsub_subscription.alert_dead_letters.topic == google_pubsub_topic.alert_dead_letters.id
    error_message = "each of its own topic"
  }
}

run "subscriptions_to_the_alerts" {
  command = apply
  variables {
    alert_subscriptions = {
      urgent = { filter = "attributes.priority = \"P1\"" }
      table  = { bigquery_table = "data-project.dtm.alerts" }
      soar   = { push_endpoint = "https://soar.example.com/hook" }
      siem   = { push_endpoint = "https://siem.example.com/", push_audience = "siem" }
    }
  }

  assert {
    condition     = alltrue([for s in values(google_pubsub_subscription.alerts) : s.topic == google_pubsub_topic.alerts.id && s.expiration_policy[0].ttl == ""])
    error_message = "of the alerts, without expiry"
  }
  assert {
    condition     = { for name, s in google_pubsub_subscription.alerts : name => s.filter } == { urgent = "attributes.priority = \"P1\"", table = "", soar = "", siem = "" }
    error_message = "each with its filter"
  }
  assert {
    condition     = { for name, s in google_pubsub_subscription.alerts : name => "${length(s.push_config)} ${length(s.bigquery_config)} ${length(s.dead_letter_policy)}" } == { urgent = "0 0 0", table = "0 1 1", soar = "1 0 1", siem = "1 0 1" }
    error_message = "pull, BigQuery or push; what Pub/Sub delivers has dead letters"
  }
  assert {
    condition     = alltrue([for s in values(google_pubsub_subscription.alerts) : alltrue([for p in s.dead_letter_policy : p.dead_letter_topic == google_pubsub_topic.alert_dead_letters.id])])
    error_message = "alerts are not among the write-backs' dead letters"
  }
  assert {
    condition     = google_pubsub_subscription.alerts["table"].bigquery_config[0].table == "data-project.dtm.alerts" && google_pubsub_subscription.alerts["table"].bigquery_config[0].write_metadata
    error_message = "into the table, with the attributes"
  }
  assert {
    condition     = google_pubsub_subscription.alerts["soar"].push_config[0].oidc_token[0].audience == "https://soar.example.com/hook" && google_pubsub_subscription.alerts["siem"].push_config[0].oidc_token[0].audience == "siem"
    error_message = "a token for the receiver"
  }
}

run "source" {
  command = apply

  assert {
    condition     = google_storage_bucket_object.source[0].name == "source-0123abcd.zip" && google_storage_bucket_object.source[0].bucket == google_storage_bucket.source[0].name
    error_message = "the object has the archive's checksum in its name"
  }
  assert {
    condition = alltrue([for f in [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync] :
      f.build_config[0].source[0].storage_source[0].object == google_storage_bucket_object.source[0].name && f.build_config[0].docker_repository == google_artifact_registry_repository.images.id
    ])
    error_message = "both functions are built from it, into the repository"
  }
  assert {
    condition     = data.archive_file.source[0].excludes == toset(local.not_shipped) && length(local.unknown) + length(local.odd_names) == 0
    error_message = "What .gcloudignore doesn't name is left out: ${jsonencode(local.unknown)} ${jsonencode(local.odd_names)}"
  }
  assert {
    condition     = contains(data.archive_file.source[0].excludes, "terraform") && startswith(data.archive_file.source[0].output_path, "./.terraform/") && data.archive_file.source[0].output_file_mode == "0644"
    error_message = "the zip is not in itself, and has the same checksum everywhere"
  }
}

run "outputs" {
  command = apply

  assert {
    condition = alltrue([for text in [
      "gcloud secrets versions add dtm-relay-gti-api-key --project=my-project --data-file=-",
      "URL=https://ingest.example.run.app\n", "/backfill", "print-identity-token", "logs/query", "monitoring/dashboards", "Incidents go to soc@example.com.",
      "Do a first run, as somebody with roles/run.invoker on the function.",
    ] : strcontains(output.next_steps, text)])
    error_message = output.next_steps
  }
  assert {
    condition     = !strcontains(output.next_steps, "-X POST") && strcontains(output.next_steps, "curl \"$URL/\" -d ''")
    error_message = "Google's front ends answer a POST without a length with 411; curl's -d sends one: ${output.next_steps}"
  }
  assert {
    condition     = output.logs_url == "https://console.cloud.google.com/logs/query;query=resource.labels.service_name%3D%22dtm-relay-ingest%22%20OR%20resource.labels.service_name%3D%22dtm-relay-sync%22?project=my-project"
    error_message = output.logs_url
  }
  assert {
    condition     = output.topics.alerts == "projects/my-project/topics/dtm-alerts" && output.secret == "projects/my-project/secrets/dtm-relay-gti-api-key" && output.database == "dtm-relay"
    error_message = "names for others"
  }
}

run "the_first_run_with_operators" {
  command = apply
  variables {
    operators = ["ana@example.com"]
  }
  assert {
    condition     = strcontains(output.next_steps, "Do a first run, as one of operators.")
    error_message = "Ingest refuses whoever is not among them: ${output.next_steps}"
  }
}
