# Log-based metrics, alert policies and the dashboard.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "some-project"
}

run "an_absence_of_half_an_hour_by_default" {
  command = plan

  assert {
    condition     = google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].duration == "1800s"
    error_message = "Every 5 minutes: no success for 30 minutes."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.no_success[0].conditions) == 1 && length(google_monitoring_alert_policy.no_success[0].conditions[0].condition_prometheus_query_language) == 0
    error_message = "The absence condition is the only one."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].filter, "metric.type=\"logging.googleapis.com/user/${google_logging_metric.counter["runs"].name}\"")
    error_message = "The absence is that of the runs."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].filter, "metric.labels.outcome=one_of(\"ok\", \"partial\")")
    error_message = "Only ok and partial are a success."
  }
  assert {
    condition     = google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].aggregations[0].cross_series_reducer == "REDUCE_SUM"
    error_message = "Each revision has a series of its own: one that ended with a deployment must not count as absent."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.no_success[0].documentation[0].content, "can't fire before the first success")
    error_message = "Who reads the policy has to know what it can't see."
  }
}

run "four_intervals_when_they_are_longer" {
  command = plan
  variables {
    schedule = { interval_minutes = 30 }
  }

  assert {
    condition     = google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].duration == "7200s"
    error_message = "Every 30 minutes: no success for 2 hours."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["failed"].conditions[0].condition_prometheus_query_language[0].query, "[100m]")
    error_message = "Two failures are counted within three intervals, and the ten minutes that a metric may be late."
  }
}

run "the_longest_absence_that_monitoring_takes" {
  command = plan
  variables {
    schedule = { interval_minutes = 240 }
  }

  assert {
    condition     = google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent[0].duration == "57600s"
    error_message = "Every 4 hours: no success for 16 hours."
  }
}

run "beyond_what_an_absence_can_be" {
  command = plan
  variables {
    schedule = { interval_minutes = 600, cron = "0 0,10,20 * * *" }
  }

  assert {
    condition     = length(google_monitoring_alert_policy.no_success[0].conditions[0].condition_absent) == 0
    error_message = "Monitoring refuses an absence of more than 23.5 hours."
  }
  assert {
    condition = google_monitoring_alert_policy.no_success[0].conditions[0].condition_prometheus_query_language[0].query == join(" unless ", [
      for minutes in [12480, 2400] : "(sum(increase(${local.series.runs}{${local.here},outcome=~\"ok|partial\"}[${minutes}m])) > 0)"
    ])
    error_message = "Every 10 hours: a success before, and none within 40 hours."
  }
}

run "every_policy" {
  command = plan
  variables {
    monitoring = { notification_channels = ["projects/some-project/notificationChannels/1", "projects/some-project/notificationChannels/2"] }
  }

  assert {
    condition     = toset(keys(google_monitoring_alert_policy.this)) == toset(["failed", "lag", "gap", "monitor_disabled", "rejects", "dead_letters", "errors", "requests", "key"])
    error_message = "The policies beside the absence are these nine."
  }
  assert {
    condition = alltrue([
      for p in concat(values(google_monitoring_alert_policy.this), google_monitoring_alert_policy.no_success) :
      p.notification_channels == tolist(["projects/some-project/notificationChannels/1", "projects/some-project/notificationChannels/2"])
    ])
    error_message = "Every policy notifies the channels."
  }
  assert {
    condition = alltrue([
      for p in concat(values(google_monitoring_alert_policy.this), google_monitoring_alert_policy.no_success) :
      p.user_labels == tomap(local.labels) && p.combiner == "OR" && contains(["CRITICAL", "ERROR", "WARNING"], p.severity) && startswith(p.display_name, "${local.name}: ")
    ])
    error_message = "Every policy has the labels, a severity that Monitoring knows, and a name that tells the feed."
  }
  assert {
    condition     = length(distinct([for p in concat(values(google_monitoring_alert_policy.this), google_monitoring_alert_policy.no_success) : p.display_name])) == 10
    error_message = "Names tell policies apart."
  }
  assert {
    condition     = alltrue([for p in values(google_monitoring_alert_policy.this) : p.conditions[0].condition_prometheus_query_language[0].disable_metric_validation])
    error_message = "On the first apply Monitoring doesn't know the metrics yet."
  }
  # A reference to a section that isn't there helps nobody at night.
  assert {
    condition = alltrue([
      for p in concat(values(google_monitoring_alert_policy.this), google_monitoring_alert_policy.no_success) : alltrue([
        length(regexall("See docs/[a-z/-]+\\.md#[a-z-]+\\.", p.documentation[0].content)) == 1,
        contains(
          [for heading in flatten(regexall("(?m)^#+ (.+)$", file("${path.module}/../${regex("See (docs/[a-z/-]+\\.md)#", p.documentation[0].content)[0]}"))) : replace(lower(heading), " ", "-")],
          regex("See docs/[a-z/-]+\\.md#([a-z-]+)\\.", p.documentation[0].content)[0],
        ),
      ])
    ])
    error_message = "Every policy refers to a section of docs/ that exists."
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
      )) :
      contains(concat(
        [for m in values(google_logging_metric.counter) : replace(m.name, "-", "_")],
        [for pair in setproduct(values(google_logging_metric.distribution), ["sum", "count", "bucket"]) : "${replace(pair[0].name, "-", "_")}_${pair[1]}"],
      ), name)
    ])
    error_message = "A policy or chart reads a metric that metrics.tf doesn't make."
  }
  assert {
    condition = alltrue([
      for m in concat(values(google_logging_metric.counter), values(google_logging_metric.distribution)) :
      strcontains(google_monitoring_dashboard.this[0].dashboard_json, "logging_googleapis_com:user_${replace(m.name, "-", "_")}")
    ])
    error_message = "The dashboard shows each metric."
  }
  assert {
    condition = alltrue([
      for k, p in google_monitoring_alert_policy.this :
      strcontains(p.conditions[0].condition_prometheus_query_language[0].query, "subscription_id=\"${k == "rejects" ? google_pubsub_subscription.rejects.name : google_pubsub_subscription.dead_letters.name}\"")
      if contains(["rejects", "dead_letters"], k)
    ])
    error_message = "Rejects and dead letters are counted where they wait."
  }
  assert {
    condition     = local.watched == { ingest = google_cloudfunctions2_function.ingest.name, sync = google_cloudfunctions2_function.sync.name }
    error_message = "The metrics read the log of functions with other names than these."
  }
  # What is drawn from the run report has to be in it.
  assert {
    condition = alltrue([
      for m in values(google_logging_metric.distribution) :
      strcontains(file("${path.module}/../internal/drain/report.go"), "json:\"${regex("^EXTRACT\\(jsonPayload\\.([a-z0-9_]+)\\)$", m.value_extractor)[0]}\"")
    ])
    error_message = "A distribution extracts a field that the run report doesn't have."
  }
  assert {
    condition = alltrue([
      for reason in flatten(regexall("stop_reason=\"([a-z_]+)\"", join(" ", [for p in values(google_monitoring_alert_policy.this) : p.conditions[0].condition_prometheus_query_language[0].query]))) :
      strcontains(file("${path.module}/../internal/drain/report.go"), "= \"${reason}\"")
    ])
    error_message = "A policy waits for a stop_reason that no run has."
  }
  assert {
    condition     = strcontains(file("${path.module}/../internal/app/app.go"), "live: share(${local.live_errors}, 1),")
    error_message = "Of 100 errors, live runs stop at another one in the code."
  }
  # Each event that the code logs when a function can't start, at ERROR.
  assert {
    condition = toset(flatten(regexall("ErrorContext\\(ctx, \"[^\"]+\", \"event\", \"([a-z_]+)\"", file("${path.module}/../internal/app/server.go")))) == toset(
      regexall("[a-z]+", regex("jsonPayload\\.event=\\(([^)]*)\\)", replace(google_logging_metric.counter["start_failures"].filter, "\" OR \"", "\" \""))[0])
    ) && strcontains(google_logging_metric.counter["start_failures"].filter, "severity=ERROR")
    error_message = "The lines of a function that can't start are others in the code."
  }
  assert {
    condition = alltrue([
      strcontains(google_logging_metric.counter["start_failures"].filter, "service_name=(\"${google_cloudfunctions2_function.ingest.name}\" OR \"${google_cloudfunctions2_function.sync.name}\")"),
      strcontains(google_monitoring_alert_policy.this["failed"].conditions[0].condition_prometheus_query_language[0].query, "or sum(increase(${local.series.start_failures}{${local.here}}[25m])) > 0.5"),
    ])
    error_message = "One such line, of either function, is enough."
  }
  assert {
    condition     = strcontains(file("${path.module}/../internal/drain/monitors.go"), "\"event\", ${regex("jsonPayload\\.event=(\"[a-z_]+\")", google_logging_metric.counter["monitors"].filter)[0]}") && strcontains(google_logging_metric.counter["monitors"].filter, "severity=ERROR")
    error_message = "The line of a disabled monitor is another one in the code."
  }
  assert {
    condition     = alltrue([for m in values(google_logging_metric.distribution) : strcontains(m.filter, "NOT jsonPayload.dry_run=true")]) && strcontains(google_logging_metric.counter["runs"].filter, "NOT jsonPayload.dry_run=true")
    error_message = "A dry run is no sign of life."
  }
  assert {
    condition     = alltrue([for k in ["lag", "late"] : endswith(google_logging_metric.distribution[k].filter, "_seconds>0")])
    error_message = "0 stands for \"not known\" there, and must not pull the mean down."
  }
}

run "the_dashboard" {
  command = plan

  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.this[0].dashboard_json).gridLayout.widgets) == 12
    error_message = "Eleven charts and the log."
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
}

run "bounds_are_variables" {
  command = plan
  variables {
    monitoring = { lag_minutes = 15, errors_left = 30, requests_share = 0.5 }
  }

  assert {
    condition     = endswith(google_monitoring_alert_policy.this["lag"].conditions[0].condition_prometheus_query_language[0].query, " > 900")
    error_message = "15 minutes are 900 seconds."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["errors"].conditions[0].condition_prometheus_query_language[0].query, "[1h])) > 19.5 or ")
    error_message = "30 left of 50: from the 20th error on."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["requests"].conditions[0].condition_prometheus_query_language[0].query, "[24h])) > ${floor(local.requests_per_day / 2)} or ")
    error_message = "Half of the day's requests."
  }
}

run "bounds_follow_the_error_limit" {
  command = plan
  variables {
    gti = { max_errors_per_hour = 255 }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["errors"].conditions[0].condition_prometheus_query_language[0].query, "[1h])) > 76.5 or ")
    error_message = "Runs stop at 127, and 50 of these are left from the 77th error on."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.this["errors"].documentation[0].content, "the 127 of the hour") && strcontains(google_monitoring_alert_policy.this["errors"].documentation[0].content, "locks a user out after 255")
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

run "without_the_write_backs_lines" {
  command = plan
  variables {
    log_level = "error"
  }

  expect_failures = [google_monitoring_alert_policy.no_success]
}

run "off" {
  command = plan
  variables {
    monitoring = { enabled = false }
    log_level  = "error"
  }

  assert {
    condition = 0 == sum([
      length(google_logging_metric.counter), length(google_logging_metric.distribution),
      length(google_monitoring_alert_policy.this), length(google_monitoring_alert_policy.no_success),
      length(google_monitoring_dashboard.this),
    ])
    error_message = "Switched off, nothing of it is made."
  }
}
