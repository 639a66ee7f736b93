# Who is told of what. Each policy has a page in docs/runbooks, of the policy's name.
#
# All are PromQL conditions. The mean of a distribution's values and an absence that
# counts before there is any data are not to be had by a threshold condition. And
# Monitoring refuses a threshold on a log-based metric that is younger than some
# minutes, so that a first apply would fail ("Cannot find metric(s) that match type");
# PromQL conditions can do without that check.

locals {
  # PromQL names of the metrics: what is no letter, digit or underscore is an
  # underscore there.
  series = {
    for k in concat(keys(local.counters), keys(local.distributions)) :
    k => "logging_googleapis_com:user_${replace("${local.name}-${k}", "-", "_")}"
  }
  # The project is named because a metrics scope can hold others, with metrics of
  # the same names.
  here      = "monitored_resource=\"cloud_run_revision\",project_id=\"${var.project_id}\""
  of_both   = "${local.here},service_name=~\"${join("|", values(local.watched))}\""
  of_sync   = "${local.here},service_name=\"${local.watched.sync}\""
  of_pubsub = "monitored_resource=\"pubsub_subscription\",project_id=\"${var.project_id}\""

  # The subscriptions that bring alerts to somebody.
  consumers = concat(
    values(google_pubsub_subscription.alerts)[*].name,
    google_pubsub_subscription.bigquery[*].name,
    google_pubsub_subscription.archive[*].name,
    values(google_pubsub_subscription.notify)[*].name,
  )
  # As a regular expression. Of the characters that a name may have, . and + mean
  # something there.
  of_consumers = "${local.of_pubsub},subscription_id=~\"${join("|", [for name in local.consumers : replace(replace(name, ".", "[.]"), "+", "[+]")])}\""

  kept = {
    rejects            = google_pubsub_subscription.rejects.name
    dead_letters       = google_pubsub_subscription.dead_letters.name
    alert_dead_letters = google_pubsub_subscription.alert_dead_letters.name
  }
  undelivered = { for k, subscription in local.kept :
    k => "pubsub_googleapis_com:subscription_num_undelivered_messages{${local.of_pubsub},subscription_id=\"${subscription}\"}"
  }
  oldest = "pubsub_googleapis_com:subscription_oldest_unacked_message_age"

  # Windows in minutes. A log-based metric may be ten minutes late.
  window_minutes = 2 * local.interval_minutes + 10
  recent_minutes = 3 * local.interval_minutes + 10

  # After the first apply somebody has to store the API key, and the first run has to
  # come: what is so from the beginning is told only when it has lasted this long.
  grace_minutes   = min(max(20, local.interval_minutes), 1200)
  success_minutes = local.window_minutes + local.grace_minutes

  # Error answers of GTI at which live runs stop (internal/app, sharesOf).
  live_errors    = floor(var.gti.max_errors_per_hour / 2)
  errors_left    = coalesce(var.monitoring.errors_left, floor(local.live_errors * 2 / 5))
  errors_bound   = local.live_errors - local.errors_left
  requests_bound = floor(local.requests_per_day * var.monitoring.requests_share)

  # The mean over the runs of a window.
  mean = { for k in ["lag", "requests_24h", "errors_1h"] :
    k => join(" / ", [for part in ["sum", "count"] : "sum(increase(${local.series[k]}_${part}{${local.here}}[${local.window_minutes}m]))"])
  }

  # An increase is extrapolated to the window's ends, so it need not be whole:
  # counts are compared half way between two numbers.
  #
  # query: true while the incident lasts. minutes: how long it has to be true. logs:
  # what to look at.
  policies = {
    no_success = {
      title    = "no successful run"
      severity = "CRITICAL"
      # Where no run has ever been there is no series: absence counts as 0.
      query   = "(sum(increase(${local.series.runs}{${local.here},outcome=~\"ok|partial\"}[${local.window_minutes}m])) or vector(0)) < 0.5"
      minutes = local.grace_minutes
      logs    = local.run_lines
      text    = "No run ended `ok` or `partial` for ${local.success_minutes} minutes: every run fails or is skipped, or none is made. Alerts wait in GTI. What its look-back (`MAX_LOOKBACK`) no longer reaches becomes a gap."
    }
    api_key = {
      title    = "API key missing or refused"
      severity = "CRITICAL"
      query    = "sum(increase(${local.series.key_problems}{${local.here}}[${local.window_minutes}m])) > 0.5"
      minutes  = local.grace_minutes
      logs     = local.counters.key_problems.filter
      text     = "For ${local.grace_minutes} minutes runs or write-backs have had no API key (`key_missing`: the secret has no version, as after the first apply), or GTI refuses it (`key_refused`). Store a valid key as a new version of the secret; nothing has to be deployed."
    }
    gap = {
      title    = "gap"
      severity = "CRITICAL"
      query    = "sum(increase(${local.series.gaps}{${local.here}}[24h])) > 0.5"
      logs     = local.counters.gaps.filter
      text     = "GTI refused to list a range because it was too old, so its alerts were not relayed. The feed has gone on after it. Be quick: what GTI doesn't answer for grows by the hour."
    }
    failed_runs = {
      title    = "runs fail"
      severity = "ERROR"
      query    = "sum(increase(${local.series.runs}{${local.here},outcome=\"failed\",stop_reason!~\"key_missing|key_refused\"}[${local.recent_minutes}m])) > 1.5"
      logs     = "${local.run_lines} AND jsonPayload.outcome=\"failed\""
      text     = "At least two runs failed within ${local.recent_minutes} minutes (without or with a refused API key there is a policy of its own). The position stays at what was published."
    }
    start_failed = {
      title    = "a function can't start"
      severity = "ERROR"
      query    = "sum(increase(${local.series.start_failures}{${local.here}}[${local.recent_minutes}m])) > 0.5"
      logs     = local.counters.start_failures.filter
      text     = "A function refused its configuration, could not be built up, or Cloud Run could not start an instance or a new revision of it."
    }
    crash = {
      title    = "a function crashed"
      severity = "ERROR"
      query    = "sum(increase(${local.series.crashes}{${local.here}}[${local.recent_minutes}m])) > 0.5"
      logs     = local.counters.crashes.filter
      text     = "A panic ended a run or a request, or an instance ended by itself or for want of memory."
    }
    monitor_disabled = {
      title    = "a monitor is disabled"
      severity = "ERROR"
      query    = "sum(increase(${local.series.monitors}{${local.here}}[24h])) > 0.5"
      logs     = local.counters.monitors.filter
      text     = "GTI has disabled a monitor, or lists it no more. The feed is well, and no new alerts of this monitor come."
    }
    undelivered_write_backs = {
      title    = "write-backs wait"
      severity = "ERROR"
      query    = "max(max_over_time(${local.oldest}{${local.of_pubsub},subscription_id=\"${google_pubsub_subscription.status_push.name}\"}[10m])) > ${var.monitoring.age_minutes * 60}"
      logs     = "${local.lines_of.sync} AND severity>=WARNING"
      text     = "The oldest message of ${google_pubsub_subscription.status_push.name} is more than ${var.monitoring.age_minutes} minutes old: ${local.watched.sync} doesn't do it, or isn't called."
    }
    undelivered_alerts = {
      title    = "a receiver doesn't take its alerts"
      severity = "ERROR"
      query    = "max by (subscription_id) (max_over_time(${local.oldest}{${local.of_consumers}}[10m])) > ${var.monitoring.age_minutes * 60}"
      # Pub/Sub writes no line when a receiver doesn't take a message.
      logs = local.run_lines
      text = "The oldest alert of a subscription (`subscription_id`) is more than ${var.monitoring.age_minutes} minutes old: its receiver doesn't acknowledge it. All other receivers have it."
    }
    alert_dead_letters = {
      title    = "dead letters of alerts"
      severity = "ERROR"
      query    = "max(max_over_time(${local.undelivered.alert_dead_letters}[10m])) > 0"
      logs     = local.run_lines
      text     = "${local.kept.alert_dead_letters} holds alerts that a receiver did not take in 100 attempts. Don't acknowledge them before the receiver has them."
    }
    dead_letters = {
      title    = "dead letters of write-backs"
      severity = "WARNING"
      query    = "max(max_over_time(${local.undelivered.dead_letters}[10m])) > 0"
      logs     = "${local.lines_of.sync} AND jsonPayload.event=\"writeback\" AND severity>=WARNING"
      text     = "${local.kept.dead_letters} holds write-backs that ${local.watched.sync} could not do in 100 attempts. Their alerts keep the old status in GTI."
    }
    rejects = {
      title    = "rejects"
      severity = "WARNING"
      query    = "max(max_over_time(${local.undelivered.rejects}[10m])) > 0"
      logs     = "${local.lines_of_both} AND ((jsonPayload.event=\"run\" AND jsonPayload.rejected>0) OR (jsonPayload.event=\"writeback\" AND jsonPayload.outcome=\"rejected\"))"
      text     = "${local.kept.rejects} holds alerts that can't be published, or write-backs that can't be done. The feed is not held up by them."
    }
    lag = {
      title    = "the feed lags"
      severity = "WARNING"
      query    = "${local.mean.lag} > ${var.monitoring.lag_minutes * 60}"
      logs     = local.run_lines
      text     = "The position is more than ${var.monitoring.lag_minutes} minutes old (mean of the runs of ${local.window_minutes} minutes). Normal while the feed catches up after an outage. What GTI's look-back (`MAX_LOOKBACK`) no longer reaches becomes a gap."
    }
    suspected_gap = {
      title    = "suspected gap"
      severity = "WARNING"
      query    = "sum(increase(${local.series.suspected_gaps}{${local.here}}[24h])) > 0.5"
      logs     = local.counters.suspected_gaps.filter
      text     = "The relay asked for a range older than `MAX_LOOKBACK`, and GTI's first alert was younger than that. Either there were no older ones, or GTI left them out."
    }
    late_alerts = {
      title    = "alerts come late into GTI's index"
      severity = "WARNING"
      query    = "sum(increase(${local.series.late}_count{${local.here}}[24h])) > 0.5"
      logs     = local.distribution_filters.late
      text     = "The audit found alerts that came into GTI's index later than `OVERLAP`. They are published by now, up to `AUDIT_WINDOW` after their creation."
    }
    late_changes = {
      title    = "changes of alerts come late"
      severity = "WARNING"
      query    = "sum(increase(${local.series.late_sweeps}{${local.here}}[${local.recent_minutes}m])) > 0.5"
      logs     = "${local.lines_of.ingest} AND jsonPayload.event=(\"sweep_late\" OR \"sweep\")"
      text     = "No sweep was complete for two hours, so changes of known alerts are not seen. New alerts are not held up."
    }
    backfill_failed = {
      title    = "a backfill failed"
      severity = "WARNING"
      query    = "sum(increase(${local.series.failed_backfills}{${local.here}}[24h])) > 0.5"
      logs     = local.counters.failed_backfills.filter
      text     = "GTI refused what a backfill asks for. It is not tried again. The live feed is not held up."
    }
    error_budget = {
      title    = "error budget low"
      severity = "WARNING"
      query = join(" or ", [
        "(${local.mean.errors_1h}) > ${local.errors_bound - 0.5}",
        "sum(increase(${local.series.runs}{${local.here},stop_reason=\"error_budget\"}[1h])) > 0.5",
      ])
      logs = "${local.lines_of_both} AND severity>=WARNING"
      text = "GTI has answered this key with 400 and above ${local.errors_bound} times within an hour (all feeds and write-backs), or a run stopped because the ${local.live_errors} of the hour are used up. GTI locks a user out after ${var.gti.max_errors_per_hour} (`MAX_ERRORS_PER_HOUR`)."
    }
    request_budget = {
      title    = "requests near the day's limit"
      severity = "WARNING"
      query = join(" or ", [
        "(${local.mean.requests_24h}) > ${local.requests_bound}",
        "sum(increase(${local.series.runs}{${local.here},stop_reason=\"request_limit\"}[1h])) > 0.5",
      ])
      logs = local.run_lines
      text = "More than ${local.requests_bound} of ${local.requests_per_day} requests (`MAX_REQUESTS_PER_DAY`) were sent to GTI with this key within 24 hours (all feeds and write-backs), or a run stopped because they, or GTI's own quota, are used up."
    }
    memory = {
      title    = "memory runs short"
      severity = "WARNING"
      query    = "histogram_quantile(0.99, sum by (le, service_name) (increase(run_googleapis_com:container_memory_utilizations_bucket{${local.of_both}}[10m]))) > 0.9"
      logs     = local.lines_of_both
      text     = "A function (`service_name`) uses more than 90 % of its memory. Cloud Run ends an instance that passes its limit."
    }
    sync_errors = {
      title    = "SyncStatus answers 5xx"
      severity = "WARNING"
      # A single write-back that fails is delivered about eight times in half an hour.
      query = join(" and ", [
        "sum(increase(run_googleapis_com:request_count{${local.of_sync},response_code_class=\"5xx\"}[30m])) > 19.5",
        "sum(increase(run_googleapis_com:request_count{${local.of_sync},response_code_class=\"5xx\"}[30m])) > 0.5 * sum(increase(run_googleapis_com:request_count{${local.of_sync}}[30m]))",
      ])
      logs = "${local.lines_of.sync} AND severity>=WARNING"
      text = "Within 30 minutes ${local.watched.sync} answered 20 requests or more, and more than half of all, with 5xx: write-backs wait, and are delivered again for about 15 hours."
    }
  }

  runbooks = { for k in keys(local.policies) : k => (
    var.monitoring.runbook_url == null ? "docs/runbooks/${replace(k, "_", "-")}.md in the module's repository" : "${var.monitoring.runbook_url}/${replace(k, "_", "-")}.md"
  ) }

  channels = concat(var.monitoring.notification_channels, values(google_monitoring_notification_channel.email)[*].name)
}

resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.monitoring.enabled ? var.monitoring.emails : [])

  project      = var.project_id
  display_name = "${local.name}: ${each.value}"
  type         = "email"
  labels       = { email_address = each.value }
  user_labels  = local.labels

  depends_on = [time_sleep.services]
}

check "somebody_is_told" {
  assert {
    condition     = !var.monitoring.enabled || length(var.monitoring.emails) + length(var.monitoring.notification_channels) > 0
    error_message = "monitoring: incidents are only in the console, and nobody is told. Name somebody in monitoring.emails or monitoring.notification_channels."
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = { for k, p in local.policies : k => p if var.monitoring.enabled && (k != "undelivered_alerts" || length(local.consumers) > 0) }

  project      = var.project_id
  display_name = "${local.name}: ${each.value.title}"
  combiner     = "OR"
  severity     = each.value.severity

  conditions {
    display_name = each.value.title

    condition_prometheus_query_language {
      query                     = each.value.query
      duration                  = "${try(each.value.minutes, 0) * 60}s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }

  # A metric that ends, as with the feed, must not leave an incident open.
  alert_strategy {
    auto_close = "86400s"
  }

  documentation {
    mime_type = "text/markdown"
    content = join("\n\n", [
      each.value.text,
      "What to do: ${local.runbooks[each.key]}",
      "[Log](${local.console}/logs/query;query=${replace(urlencode(each.value.logs), "+", "%20")}?project=${var.project_id}), [dashboard](${local.dashboard_url})",
    ])
  }

  notification_channels = local.channels
  user_labels           = local.labels

  # The grace of the first apply begins when runs can come.
  depends_on = [google_cloud_scheduler_job.ingest, time_sleep.services]

  lifecycle {
    precondition {
      condition     = var.log_level != "error"
      error_message = "log_level: must be debug, info or warn while monitoring.enabled is true, because policies count lines of level warn."
    }
  }
}
