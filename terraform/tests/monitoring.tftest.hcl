# Log-based metrics, alert policies and the dashboard. internal/app compares the names
# of events and fields with the code.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

override_resource {
  target = google_monitoring_dashboard.this
  values = { id = "projects/some-project/dashboards/d1" }
}

variables {
  project_id = "some-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "absence_counts_before_the_first_success" {
  command = plan

  assert {
    condition     = google_monitoring_alert_policy.this["no_success"].conditions[0].condition_prometheus_query_language[0].query == "(sum(increase(${local.series.runs}{${local.here},outcome=~\"ok|partial\"}[20m])) or vector(0)) < 0.5"
    error_message = "No run that was ok or partial in two intervals of 5 minutes, and the ten minutes that a metric may be late. Without any series the count is 0."
  }
  assert {
    condition     = [for k in ["no_success", "api_key"] : google_monitoring_alert_policy.this[k].conditions[0].condition_prometheus_query_language[0].duration] == ["1200s", "1200s"]
    error_message = "After the first apply there is no key and no run yet: both wait for the same 20 minutes."
  }
  assert {
    condition     = alltrue([for k, p in google_monitoring_alert_policy.this : p.conditions[0].condition_prometheus_query_language[0].duration == "0s" if !contains(["no_success", "api_key"], k)])
    error_message = "Nothing else is so from the beginning, so nothing else waits."
  }
  assert {
    condition     = strcontains(local.policies.no_success.text, "for 40 minutes")
    error_message = "The text has the window and the wait together."
  }
}

run "windows_follow_the_interval" {
  command = plan
  variables {
    schedule = { interval_minutes = 30 }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["no_success"].conditions[0].condition_prometheus_query_language[0].query, "[70m]") && google_monitoring_alert_policy.this["no_success"].conditions[0].condition_prometheus_query_language[0].duration == "1800s"
    error_message = "Every 30 minutes: 70 minutes, and 30 more."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["failed_runs"].conditions[0].condition_prometheus_query_language[0].query, "[100m]")
    error_message = "Two failures are counted within three intervals, and the ten minutes that a metric may be late."
  }
}

run "a_run_a_day" {
  command = plan
  variables {
    schedule = { interval_minutes = 1440, cron = "0 6 * * *" }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["no_success"].conditions[0].condition_prometheus_query_language[0].query, "[2890m]") && google_monitoring_alert_policy.this["no_success"].conditions[0].condition_prometheus_query_language[0].duration == "72000s"
    error_message = "Once a day: two days, and 20 hours more."
  }
}

run "nobody_is_told" {
  command = plan
  variables {
    monitoring = {}
  }

  expect_failures = [check.somebody_is_told]

  assert {
    condition     = length(google_monitoring_notification_channel.email) == 0 && alltrue([for p in values(google_monitoring_alert_policy.this) : length(p.notification_channels) == 0])
    error_message = "The policies are made all the same."
  }
  assert {
    condition     = strcontains(local.who_is_told, "Nobody is: set monitoring.emails")
    error_message = "next_steps says it too."
  }
}

run "emails_and_channels_are_told" {
  command = apply
  variables {
    monitoring = {
      emails                = ["soc@example.com", "oncall@example.com"]
      notification_channels = ["projects/some-project/notificationChannels/1"]
    }
    labels = { team = "soc" }
  }

  assert {
    condition = { for k, c in google_monitoring_notification_channel.email : k => "${c.type} ${c.labels.email_address} ${c.user_labels.team} ${c.project}" } == {
      for e in ["soc@example.com", "oncall@example.com"] : e => "email ${e} soc some-project"
    }
    error_message = "Each address is a channel."
  }
  assert {
    condition = alltrue([
      for p in values(google_monitoring_alert_policy.this) :
      toset(p.notification_channels) == toset(concat(["projects/some-project/notificationChannels/1"], values(google_monitoring_notification_channel.email)[*].name))
    ]) && length(google_monitoring_alert_policy.this["gap"].notification_channels) == 3
    error_message = "Every policy notifies both kinds."
  }
  assert {
    condition     = strcontains(output.next_steps, "Incidents go to soc@example.com, oncall@example.com, projects/some-project/notificationChannels/1.")
    error_message = output.next_steps
  }
}

run "channels_alone_will_do" {
  command = plan
  variables {
    monitoring = { notification_channels = ["projects/some-project/notificationChannels/1"] }
  }

  assert {
    condition     = alltrue([for p in values(google_monitoring_alert_policy.this) : p.notification_channels == tolist(["projects/some-project/notificationChannels/1"])])
    error_message = "Every policy notifies the channel."
  }
}

run "every_policy" {
  command = apply
  variables {
    alert_subscriptions = { soar = {} }
  }

  assert {
    condition = toset(keys(google_monitoring_alert_policy.this)) == toset([
      "no_success", "api_key", "failed_runs", "start_failed", "crash", "memory", "sync_errors",
      "lag", "gap", "suspected_gap", "late_alerts", "late_changes", "backfill_failed", "monitor_disabled",
      "rejects", "dead_letters", "alert_dead_letters", "undelivered_write_backs", "undelivered_alerts",
      "error_budget", "request_budget",
    ])
    error_message = jsonencode(keys(google_monitoring_alert_policy.this))
  }
  assert {
    condition = alltrue([
      for p in values(google_monitoring_alert_policy.this) :
      p.user_labels == tomap(local.labels) && p.combiner == "OR" && contains(["CRITICAL", "ERROR", "WARNING"], p.severity) &&
      startswith(p.display_name, "${local.name}: ") && p.alert_strategy[0].auto_close == "86400s"
    ])
    error_message = "Every policy has the labels, a severity that Monitoring knows, a name that tells the feed, and an end."
  }
  assert {
    condition     = length(distinct([for p in values(google_monitoring_alert_policy.this) : p.display_name])) == length(google_monitoring_alert_policy.this)
    error_message = "Names tell policies apart."
  }
  assert {
    condition     = alltrue([for p in values(google_monitoring_alert_policy.this) : p.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "On the first apply Monitoring doesn't know the metrics yet."
  }
  assert {
    condition = alltrue([for k, p in google_monitoring_alert_policy.this : alltrue([
      strcontains(p.documentation[0].content, "What to do: docs/runbooks/${replace(k, "_", "-")}.md in the module's repository"),
      can(regex("\\[Log\\]\\(https://console\\.cloud\\.google\\.com/logs/query;query=[^ ()]*resource\\.type%3D%22cloud_run_revision%22%20AND%20[^ ()]*\\?project=some-project\\)", p.documentation[0].content)),
      strcontains(p.documentation[0].content, "), [dashboard](https://console.cloud.google.com/monitoring/dashboards/builder/d1?project=some-project)"),
      length(p.documentation[0].content) < 8192, # what Monitoring takes
    ])])
    error_message = "Every policy names its page, and links its log and the dashboard."
  }
}

run "pages_as_links" {
  command = apply
  variables {
    monitoring = { emails = ["soc@example.com"], runbook_url = "https://git.example.com/dtm-relay/blob/v1.0.0/docs/runbooks" }
  }

  assert {
    condition     = alltrue([for k, p in google_monitoring_alert_policy.this : strcontains(p.documentation[0].content, "What to do: https://git.example.com/dtm-relay/blob/v1.0.0/docs/runbooks/${replace(k, "_", "-")}.md\n")])
    error_message = "Every policy links its page."
  }
}

run "every_policy_has_a_page_and_every_page_a_policy" {
  command = plan

  assert {
    condition = toset(flatten(regexall("\\| \\[[^\\]]+\\]\\(([a-z-]+)\\.md\\) \\|", split("\n## ", file("${path.module}/../docs/runbooks/README.md"))[1]))) == toset(
      [for k in keys(local.policies) : replace(k, "_", "-")]
    )
    error_message = "The first table of docs/runbooks/README.md is not the policies."
  }
  assert {
    condition = alltrue([for k, p in local.policies :
      strcontains(split("\n## ", file("${path.module}/../docs/runbooks/README.md"))[1], "| ${p.severity} | [${p.title}](${replace(k, "_", "-")}.md) |")
    ])
    error_message = "The table of policies has other titles or severities."
  }
  assert {
    condition = alltrue([for k, p in local.policies :
      flatten(regexall("(?m)^## (.*)$", file("${path.module}/../docs/runbooks/${replace(k, "_", "-")}.md"))) == ["What it means", "What is safe", "What to do now", "How it ends"] &&
      strcontains(file("${path.module}/../docs/runbooks/${replace(k, "_", "-")}.md"), "\nPolicy: ${p.title}.")
    ])
    error_message = "A policy's page has its four sections, and the policy's title: ${jsonencode([for k, p in local.policies : k if !strcontains(file("${path.module}/../docs/runbooks/${replace(k, "_", "-")}.md"), "\nPolicy: ${p.title}.")])}."
  }
  assert {
    condition = toset([for f in fileset("${path.module}/../docs/runbooks", "*.md") : f]) == setunion(["README.md"],
      flatten(regexall("\\]\\(([a-z-]+\\.md)\\) \\|", file("${path.module}/../docs/runbooks/README.md"))),
    )
    error_message = "A page is in none of the two tables, or a table names a page that isn't there."
  }
}

run "metrics_policies_and_dashboard_name_each_other" {
  command = plan

  # PromQL's name of a metric: its type with underscores, and a suffix where it
  # is a distribution.
  assert {
    condition = alltrue([
      for name in flatten(concat(
        [for p in values(google_monitoring_alert_policy.this) : regexall("logging_googleapis_com:user_([a-z0-9_]+)", p.conditions[0].condition_prometheus_query_language[0].query)],
        regexall("logging_googleapis_com:user_([a-z0-9_]+)", google_monitoring_dashboard.this[0].dashboard_json),
        regexall("logging_googleapis_com:user_([a-z0-9_]+)", file("${path.module}/../docs/slo.md")),
      )) :
      contains(concat(
        [for m in values(google_logging_metric.counter) : replace(m.name, "-", "_")],
        [for pair in setproduct(values(google_logging_metric.distribution), ["sum", "count", "bucket"]) : "${replace(pair[0].name, "-", "_")}_${pair[1]}"],
      ), name)
    ])
    error_message = "A policy, a chart or a query of docs/slo.md reads a metric that metrics.tf doesn't make."
  }
  assert {
    condition = alltrue([
      for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) :
      strcontains(google_monitoring_dashboard.this[0].dashboard_json, "logging_googleapis_com:user_${replace(m.name, "-", "_")}")
    ])
    error_message = "The dashboard shows each metric."
  }
  # A label that the metric doesn't have never matches, or always.
  assert {
    condition = alltrue(flatten([
      for p in values(google_monitoring_alert_policy.this) : [
        for series in regexall("logging_googleapis_com:user_([a-z0-9_]+)\\{([^}]*)\\}", p.conditions[0].condition_prometheus_query_language[0].query) : [
          for label in flatten(regexall("([a-z_]+)[=!]", series[1])) :
          contains(concat(["monitored_resource", "project_id"], flatten([for m in values(google_logging_metric.counter) : m.metric_descriptor[0].labels[*].key if replace(m.name, "-", "_") == series[0]])), label)
        ]
      ]
    ]))
    error_message = "A policy selects by a label that the metric doesn't have."
  }
  assert {
    condition = alltrue([for k in ["rejects", "dead_letters", "alert_dead_letters"] :
      strcontains(google_monitoring_alert_policy.this[k].conditions[0].condition_prometheus_query_language[0].query, "subscription_num_undelivered_messages{${local.of_pubsub},subscription_id=\"${local.kept[k]}\"}")
    ])
    error_message = "Rejects and dead letters are counted where they wait."
  }
  assert {
    condition     = local.watched == { ingest = google_cloudfunctions2_function.ingest.name, sync = google_cloudfunctions2_function.sync.name }
    error_message = "The metrics read the log of functions with other names than these."
  }
  assert {
    condition     = strcontains(file("${path.module}/../internal/app/app.go"), "live: share(${local.live_errors}, 1),")
    error_message = "Of 100 errors, live runs stop at another one in the code."
  }
  assert {
    condition     = alltrue([for k in ["start_failures", "crashes"] : strcontains(google_logging_metric.counter[k].filter, "service_name=(\"${google_cloudfunctions2_function.ingest.name}\" OR \"${google_cloudfunctions2_function.sync.name}\")")])
    error_message = "Either function's trouble counts."
  }
  assert {
    condition     = alltrue([for m in values(google_logging_metric.distribution) : strcontains(m.filter, "NOT jsonPayload.dry_run=true")]) && strcontains(google_logging_metric.counter["runs"].filter, "NOT jsonPayload.dry_run=true")
    error_message = "A dry run is no sign of life."
  }
  assert {
    condition     = alltrue([for k in ["lag", "late"] : endswith(google_logging_metric.distribution[k].filter, "_seconds>0")]) && alltrue([for k in ["requests_24h", "errors_1h"] : endswith(google_logging_metric.distribution[k].filter, " AND jsonPayload.requests>0")])
    error_message = "0 stands for \"not known\" there, and must not pull the mean down."
  }
}

run "the_keys_budgets_are_levels_and_no_shares" {
  command = plan

  # Each run's line has what the key has used by then: the sum over runs would count
  # it once a run.
  assert {
    condition = alltrue([for k, field in { error_budget = "errors_1h", request_budget = "requests_24h" } :
      startswith(google_monitoring_alert_policy.this[k].conditions[0].condition_prometheus_query_language[0].query,
      "(sum(increase(${local.series[field]}_sum{${local.here}}[20m])) / sum(increase(${local.series[field]}_count{${local.here}}[20m]))) > ")
    ])
    error_message = "The mean of the latest runs is compared."
  }
}

run "who_waits_for_whom" {
  command = plan
  variables {
    topics              = { alerts = "dtm.alerts+x" }
    alert_subscriptions = { soar = {}, siem = { push_endpoint = "https://siem.example.com/" } }
    bigquery            = {}
    archive             = {}
    notify              = { chat = { to = "slack", url = "https://hooks.example.com/a" } }
    monitoring          = { emails = ["soc@example.com"], age_minutes = 90 }
  }

  assert {
    condition = strcontains(google_monitoring_alert_policy.this["undelivered_alerts"].conditions[0].condition_prometheus_query_language[0].query,
      "subscription_id=~\"dtm[.]alerts[+]x-siem|dtm[.]alerts[+]x-soar|dtm[.]alerts[+]x-bigquery|dtm[.]alerts[+]x-archive|dtm[.]alerts[+]x-notify-chat\"}[10m])) > 5400"
    )
    error_message = google_monitoring_alert_policy.this["undelivered_alerts"].conditions[0].condition_prometheus_query_language[0].query
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["undelivered_write_backs"].conditions[0].condition_prometheus_query_language[0].query, "subscription_id=\"${google_pubsub_subscription.status_push.name}\"}[10m])) > 5400")
    error_message = "The push of write-backs is watched too."
  }
}

run "nobody_subscribes" {
  command = plan

  assert {
    condition     = !contains(keys(google_monitoring_alert_policy.this), "undelivered_alerts") && contains(keys(google_monitoring_alert_policy.this), "undelivered_write_backs")
    error_message = "An empty pattern would match every subscription of nobody."
  }
}

run "the_dashboard" {
  command = plan

  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets) == 18
    error_message = "Seventeen charts and the log."
  }
  assert {
    condition = alltrue([
      for w in jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets :
      alltrue([for d in w.xyChart.dataSets : d.timeSeriesQuery.prometheusQuery != "" && d.legendTemplate != ""])
      if can(w.xyChart)
    ])
    error_message = "Each chart has queries and legends."
  }
  assert {
    condition = toset([
      for t in jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets[2].xyChart.thresholds : t.value
    ]) == toset([local.requests_per_day, floor(local.requests_per_day * 0.9)])
    error_message = "Requests are shown against the quota and the policy's bound."
  }
  assert {
    condition = alltrue([for part in [
      "subscription_num_undelivered_messages{", "subscription_oldest_unacked_message_age{", "run_googleapis_com:request_count{", "run_googleapis_com:request_latencies_bucket{",
      "run_googleapis_com:container_instance_count{", "firestore_googleapis_com:document_read_ops_count{",
      "dtm-status-updates-push|dtm-alert-dead-letters-pull|dtm-dead-letters-pull|dtm-rejects-pull",
      ] : strcontains(join(" ", flatten([
        for w in jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets : [for d in try(w.xyChart.dataSets, []) : d.timeSeriesQuery.prometheusQuery]
    ])), part)])
    error_message = "Subscriptions, SyncStatus, instances and the database are shown."
  }
}

run "bounds_are_variables" {
  command = plan
  variables {
    monitoring = { emails = ["soc@example.com"], lag_minutes = 15, errors_left = 30, requests_share = 0.5 }
  }

  assert {
    condition     = endswith(google_monitoring_alert_policy.this["lag"].conditions[0].condition_prometheus_query_language[0].query, " > 900")
    error_message = "15 minutes are 900 seconds."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["error_budget"].conditions[0].condition_prometheus_query_language[0].query, ") > 19.5 or ")
    error_message = "30 left of 50: from the 20th error on."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["request_budget"].conditions[0].condition_prometheus_query_language[0].query, ") > ${floor(local.requests_per_day / 2)} or ")
    error_message = "Half of the day's requests."
  }
}

run "bounds_follow_the_error_limit" {
  command = plan
  variables {
    gti = { max_errors_per_hour = 255 }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["error_budget"].conditions[0].condition_prometheus_query_language[0].query, ") > 76.5 or ")
    error_message = "Runs stop at 127, and 50 of these are left from the 77th error on."
  }
  assert {
    condition     = strcontains(local.policies.error_budget.text, "the 127 of the hour") && strcontains(local.policies.error_budget.text, "locks a user out after 255")
    error_message = "The policy names the numbers that hold."
  }
  assert {
    condition = toset([
      for t in jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets[3].xyChart.thresholds : t.value
    ]) == toset([127, 77])
    error_message = "Errors are shown against the stop of live runs and the policy's bound."
  }
}

run "two_feeds_share_nothing" {
  command = plan
  variables {
    feed = "brand-x"
  }

  assert {
    condition     = alltrue([for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) : startswith(m.name, "${local.name}-") && strcontains(m.filter, local.name) && endswith(local.name, "brand-x")])
    error_message = "The feed is in the name and in the filter of each metric."
  }
}

run "without_the_lines_that_are_counted" {
  command = plan
  variables {
    log_level = "error"
  }

  expect_failures = [google_monitoring_alert_policy.this]
}

run "off" {
  command = plan
  variables {
    monitoring = { enabled = false, emails = ["soc@example.com"] }
    log_level  = "error"
  }

  assert {
    condition = 0 == sum([
      length(google_logging_metric.counter), length(google_logging_metric.distribution),
      length(google_monitoring_alert_policy.this), length(google_monitoring_notification_channel.email), length(google_monitoring_dashboard.this),
    ])
    error_message = "Switched off, nothing of it is made."
  }
}

run "off_without_anybody" {
  command = plan
  variables {
    monitoring = { enabled = false }
  }

  assert {
    condition     = strcontains(local.who_is_told, "monitoring.enabled is false")
    error_message = "Who wants no policies isn't warned."
  }
}
