# Consumers without code: BigQuery, archive, notifications. internal/transforms runs
# the JavaScript, tests/views the SQL.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "nothing_unless_asked_for" {
  command = plan

  assert {
    condition = sum([for made in [
      google_bigquery_dataset.alerts, google_bigquery_table.alerts, google_bigquery_table.current, google_bigquery_table.view,
      google_storage_bucket.archive,
      google_pubsub_subscription.bigquery, google_pubsub_subscription.archive, google_pubsub_subscription.notify,
    ] : length(made)]) == 0
    error_message = "none of it is made by default"
  }
  assert {
    condition     = output.bigquery_table == null && output.archive_bucket == null
    error_message = "no names of what isn't there"
  }
}

run "all_are_delivered_as_the_others" {
  command = apply
  variables {
    bigquery = {}
    archive  = {}
    notify   = { a = { to = "slack", url = "https://hooks.example.com/a" }, b = { to = "pagerduty", routing_key = "0123456789abcdef0123456789abcdef" } }
    labels   = { team = "soc" }
  }

  assert {
    condition = alltrue([for s in concat(google_pubsub_subscription.bigquery, google_pubsub_subscription.archive, values(google_pubsub_subscription.notify)) :
      s.topic == google_pubsub_topic.alerts.id && s.message_retention_duration == "604800s" && s.expiration_policy[0].ttl == "" &&
      s.retry_policy[0].minimum_backoff == "10s" && s.retry_policy[0].maximum_backoff == "600s" &&
      s.dead_letter_policy[0].max_delivery_attempts == 100 && s.dead_letter_policy[0].dead_letter_topic == google_pubsub_topic.alert_dead_letters.id &&
      length(s.message_transforms) == 1 && s.message_transforms[0].javascript_udf[0].function_name == "transform"
    ])
    error_message = "no expiry, back-off 10 to 600 s, dead letter after 100 attempts, one function"
  }
  assert {
    condition = alltrue([for made in concat(
      google_bigquery_dataset.alerts, google_bigquery_table.alerts, google_bigquery_table.current, values(google_bigquery_table.view),
      google_storage_bucket.archive, google_pubsub_subscription.bigquery, google_pubsub_subscription.archive, values(google_pubsub_subscription.notify),
    ) : made.labels == tomap(merge(local.labels, { team = "soc" }))])
    error_message = "labels on all"
  }
  assert {
    condition = output.subscriptions == {
      bigquery           = google_pubsub_subscription.bigquery[0].id
      archive            = google_pubsub_subscription.archive[0].id
      notify-a           = google_pubsub_subscription.notify["a"].id
      notify-b           = google_pubsub_subscription.notify["b"].id
      rejects            = google_pubsub_subscription.rejects.id
      dead_letters       = google_pubsub_subscription.dead_letters.id
      alert_dead_letters = google_pubsub_subscription.alert_dead_letters.id
    }
    error_message = jsonencode(output.subscriptions)
  }
}

run "bigquery" {
  command = plan
  variables {
    bigquery = {}
  }

  assert {
    condition = alltrue([for d in google_bigquery_dataset.alerts :
      d.dataset_id == "dtm_relay" && d.location == "us-central1" && d.delete_contents_on_destroy != true
    ])
    error_message = "a data set in the region, and the service that it needs"
  }
  assert {
    condition = alltrue([for t in google_bigquery_table.alerts :
      t.table_id == "alerts" && t.time_partitioning[0].type == "DAY" && t.time_partitioning[0].field == "publish_time" && t.time_partitioning[0].expiration_ms == null &&
      t.clustering == tolist(["alert_id"]) && t.deletion_protection
    ])
    error_message = "partitioned by day of publishing, clustered by alert, kept for ever"
  }
  assert {
    # https://cloud.google.com/pubsub/docs/bigquery has the types of the metadata.
    condition = { for c in jsondecode(google_bigquery_table.alerts[0].schema) : c.name => "${c.type} ${c.mode}" } == {
      alert_id          = "STRING NULLABLE"
      data              = "STRING NULLABLE"
      subscription_name = "STRING NULLABLE"
      message_id        = "STRING NULLABLE"
      publish_time      = "TIMESTAMP NULLABLE"
      attributes        = "STRING NULLABLE"
    }
    error_message = "no column refuses a message"
  }
  assert {
    condition = alltrue([for s in google_pubsub_subscription.bigquery :
      s.name == "dtm-alerts-bigquery" && s.bigquery_config[0].table == "my-project.dtm_relay.alerts" && s.bigquery_config[0].use_table_schema && s.bigquery_config[0].write_metadata &&
      s.message_transforms[0].javascript_udf[0].code == file("${path.module}/transforms/row.js")
    ]) && output.bigquery_table == "my-project.dtm_relay.alerts"
    error_message = "rows of the table, with metadata"
  }
  assert {
    condition     = toset([for v in concat(google_bigquery_table.current, values(google_bigquery_table.view)) : v.table_id]) == toset(["alerts_current", "alerts_open", "alerts_lifecycle"])
    error_message = "three views"
  }
  assert {
    condition = alltrue([for v in concat(google_bigquery_table.current, values(google_bigquery_table.view)) :
      v.dataset_id == "dtm_relay" && !v.deletion_protection && !v.view[0].use_legacy_sql && !strcontains(v.view[0].query, "$${") && strcontains(v.view[0].query, "`my-project.dtm_relay.alerts")
    ])
    error_message = "standard SQL over the table"
  }
}

run "bigquery_of_another_feed" {
  command = plan
  variables {
    feed                = "emea"
    bigquery            = { location = "EU", expiration_days = 400 }
    deletion_protection = false
  }
  assert {
    condition     = google_bigquery_dataset.alerts[0].dataset_id == "dtm_relay_emea" && google_bigquery_dataset.alerts[0].location == "EU" && output.bigquery_table == "my-project.dtm_relay_emea.alerts"
    error_message = "its own data set, elsewhere"
  }
  assert {
    condition     = google_bigquery_table.alerts[0].time_partitioning[0].expiration_ms == 400 * 24 * 3600 * 1000 && !google_bigquery_table.alerts[0].deletion_protection
    error_message = "rows go after 400 days"
  }
}

run "archive" {
  command = plan
  variables {
    archive = {}
  }
  assert {
    condition = alltrue([for b in google_storage_bucket.archive :
      b.name == "my-project-dtm-relay-archive" && b.location == "us-central1" && b.uniform_bucket_level_access && b.public_access_prevention == "enforced" &&
      !b.default_event_based_hold && !b.force_destroy && length(b.retention_policy) == 0
    ]) && output.archive_bucket == "my-project-dtm-relay-archive"
    error_message = "a private bucket, without retention, that destroy doesn't empty"
  }
  assert {
    condition = alltrue([for s in google_pubsub_subscription.archive : alltrue([for c in s.cloud_storage_config :
      s.name == "dtm-alerts-archive" && c.bucket == google_storage_bucket.archive[0].name && length(c.avro_config) == 0 &&
      c.filename_prefix == "alerts/" && c.filename_datetime_format == "YYYY-MM-DD/hh/mm_ssZ" && c.filename_suffix == ".jsonl" &&
      tonumber(trimsuffix(c.max_duration, "s")) <= s.ack_deadline_seconds
      ]) && s.message_transforms[0].javascript_udf[0].code == file("${path.module}/transforms/line.js")
    ])
    error_message = "lines of JSON, by hour"
  }
}

run "archive_for_a_legal_hold" {
  command = plan
  variables {
    archive = { location = "EU", retention_days = 2555, lock = true, hold = true }
  }
  assert {
    condition = alltrue([for b in google_storage_bucket.archive :
      b.location == "EU" && b.default_event_based_hold && b.retention_policy[0].retention_period == 2555 * 86400 && b.retention_policy[0].is_locked
    ])
    error_message = "seven years, final, on hold"
  }
}

run "notify" {
  command = plan
  variables {
    notify = {
      soc    = { to = "slack", url = "https://hooks.slack.com/services/T0/B0/x" }
      chat   = { to = "google_chat", url = "https://chat.googleapis.com/v1/spaces/A/messages?key=k&token=t", filter = "" }
      oncall = { to = "pagerduty", routing_key = "0123456789abcdef0123456789abcdef", filter = "attributes.priority = \"P1\"" }
      other  = { to = "webhook", url = "https://soar.example.com:8443/hooks/dtm" }
    }
  }

  assert {
    condition = { for name, s in google_pubsub_subscription.notify : s.name => s.filter } == {
      dtm-alerts-notify-soc    = "attributes.priority = \"P1\" AND attributes.event = \"created\""
      dtm-alerts-notify-chat   = ""
      dtm-alerts-notify-oncall = "attributes.priority = \"P1\""
      dtm-alerts-notify-other  = "attributes.priority = \"P1\" AND attributes.event = \"created\""
    }
    error_message = "new alerts of P1, unless something else is asked for"
  }
  assert {
    condition = { for name, s in google_pubsub_subscription.notify : name => nonsensitive(s.push_config[0].push_endpoint) } == {
      soc    = "https://hooks.slack.com/services/T0/B0/x"
      chat   = "https://chat.googleapis.com/v1/spaces/A/messages?key=k&token=t"
      oncall = "https://events.pagerduty.com/v2/enqueue"
      other  = "https://soar.example.com:8443/hooks/dtm"
    }
    error_message = "each to its receiver"
  }
  assert {
    condition     = alltrue([for s in google_pubsub_subscription.notify : s.push_config[0].no_wrapper[0].write_metadata && length(s.push_config[0].oidc_token) == 0])
    error_message = "the body alone, with its Content-Type, and no token of ours"
  }
  assert {
    condition = alltrue([for name, script in { soc = "slack", chat = "google_chat", other = "webhook" } :
      google_pubsub_subscription.notify[name].message_transforms[0].javascript_udf[0].code == "${file("${path.module}/notify/common.js")}\n${file("${path.module}/notify/${script}.js")}"
    ])
    error_message = "what internal/transforms tests"
  }
  assert {
    condition     = nonsensitive(google_pubsub_subscription.notify["oncall"].message_transforms[0].javascript_udf[0].code) == "const ROUTING_KEY = \"0123456789abcdef0123456789abcdef\";\n${file("${path.module}/notify/common.js")}\n${file("${path.module}/notify/pagerduty.js")}"
    error_message = "PagerDuty's key goes before"
  }
  assert {
    condition     = issensitive(google_pubsub_subscription.notify["soc"].push_config[0].push_endpoint) && issensitive(google_pubsub_subscription.notify["oncall"].message_transforms[0].javascript_udf[0].code)
    error_message = "no address and no key is shown"
  }
}

run "the_same_names_when_they_are_free" {
  command = plan
  variables {
    alert_subscriptions = { archive = {}, bigquery = {} }
  }
}
