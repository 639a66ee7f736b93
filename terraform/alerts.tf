# Alert policies. All but the first are PromQL conditions, for two reasons. The
# sum of a distribution's values (requests in a day, errors in an hour) is not to
# be had by a threshold condition. And Monitoring refuses a threshold on a
# log-based metric that is younger than some minutes, so that a first apply would
# fail ("Cannot find metric(s) that match type"); PromQL conditions can do without
# that check.

locals {
  # PromQL names of the metrics: what is no letter, digit or underscore is an
  # underscore there.
  series = {
    for k in concat(keys(local.counters), keys(local.distributions)) :
    k => "logging_googleapis_com:user_${replace("${local.name}-${k}", "-", "_")}"
  }
  # The project is named because a metrics scope can hold others, with metrics of
  # the same names.
  here = "monitored_resource=\"cloud_run_revision\",project_id=\"${var.project_id}\""

  undelivered = {
    for k, subscription in {
      rejects      = google_pubsub_subscription.rejects.name
      dead_letters = google_pubsub_subscription.dead_letters.name
      } : k => join("", [
        "pubsub_googleapis_com:subscription_num_undelivered_messages",
        "{monitored_resource=\"pubsub_subscription\",project_id=\"${var.project_id}\",subscription_id=\"${subscription}\"}",
    ])
  }

  # Windows in minutes. A log-based metric may be ten minutes late.
  success_minutes = max(30, 4 * local.interval_minutes)
  recent_minutes  = 3 * local.interval_minutes + 10

  # Monitoring takes no absence condition above 23.5 hours.
  absence_minutes_max = 1410

  # Error answers of GTI at which live runs stop (internal/app, sharesOf).
  live_errors = floor(var.gti.max_errors_per_hour / 2)
  errors_left = coalesce(var.monitoring.errors_left, floor(local.live_errors * 2 / 5))

  # An increase is extrapolated to the window's ends, so it need not be whole:
  # counts are compared half way between two numbers.
  policies = {
    failed = {
      title    = "runs fail, or a function can't start"
      severity = "ERROR"
      query = join(" or ", [
        "sum(increase(${local.series.runs}{${local.here},outcome=\"failed\",stop_reason!~\"key_missing|key_refused\"}[${local.recent_minutes}m])) > 1.5",
        "sum(increase(${local.series.start_failures}{${local.here}}[${local.recent_minutes}m])) > 0.5",
      ])
      see  = "docs/troubleshooting.md#troubleshooting"
      text = <<-EOT
        Within ${local.recent_minutes} minutes at least two runs failed (`outcome` is `failed`; without or with a refused API key there is a policy of its own), or a function could not start (`event` is `config` or `start`, at ERROR).

        Nothing is lost: the position stays at what was published. Look at `stop_reason` and `error` of the last runs, or at `problems` and `error` of the other lines.
      EOT
    }
    lag = {
      title    = "the feed lags"
      severity = "WARNING"
      query = join(" / ", [
        "sum(increase(${local.series.lag}_sum{${local.here}}[${local.recent_minutes}m]))",
        "sum(increase(${local.series.lag}_count{${local.here}}[${local.recent_minutes}m])) > ${var.monitoring.lag_minutes * 60}",
      ])
      see  = "docs/troubleshooting.md#position"
      text = <<-EOT
        The position is more than ${var.monitoring.lag_minutes} minutes old (mean of the runs of ${local.recent_minutes} minutes).

        Normal while the feed catches up after an outage. If it goes on, see `stop_reason` of the last runs. What GTI's look-back (`MAX_LOOKBACK`) no longer reaches becomes a gap.
      EOT
    }
    gap = {
      title    = "gap"
      severity = "CRITICAL"
      query    = "sum(increase(${local.series.gaps}{${local.here}}[24h])) > 0.5"
      see      = "docs/runbooks/gap.md#a-gap"
      text     = <<-EOT
        GTI refused to list a span because it was too old, so its alerts were not relayed. The feed has gone on after it.

        Be quick: what GTI doesn't answer for grows by the hour. `GET /status` has the span in `gaps`, ready for a backfill. The incident closes after a day; the gap stays in `/status` until a backfill covers it.
      EOT
    }
    monitor_disabled = {
      title    = "a monitor is disabled"
      severity = "ERROR"
      query    = "sum(increase(${local.series.monitors}{${local.here}}[24h])) > 0.5"
      see      = "docs/runbooks/monitor-disabled.md#a-monitor-is-disabled"
      text     = <<-EOT
        GTI has disabled a monitor, or lists it no more (`event` is `monitor_disabled`, at ERROR). The feed is well, and no new alerts of this monitor come.

        The line has its `monitor`, `name`, `disabled_code` and `disabled_reason`. `monitors` of `GET /status` lists all that are disabled. GTI disables a monitor by itself when it finds too much. The incident closes after a day; the monitor stays in `/status` until it is enabled again.
      EOT
    }
    rejects = {
      title    = "rejects"
      severity = "WARNING"
      query    = "max(max_over_time(${local.undelivered.rejects}[10m])) > 0"
      see      = "docs/messages.md#rejects"
      text     = <<-EOT
        The subscription ${google_pubsub_subscription.rejects.name} holds messages: alerts that can't be published, or write-backs that can't be done. The feed is not held up by them.

        Each says why in its attribute `reason`. `gcloud pubsub subscriptions pull ${google_pubsub_subscription.rejects.name} --project=${var.project_id} --limit=10` shows them; with `--auto-ack` they are taken off. The incident closes when none is left.
      EOT
    }
    dead_letters = {
      title    = "dead letters"
      severity = "WARNING"
      query    = "max(max_over_time(${local.undelivered.dead_letters}[10m])) > 0"
      see      = "docs/runbooks/dead-letters.md#dead-letters"
      text     = <<-EOT
        The subscription ${google_pubsub_subscription.dead_letters.name} holds messages: write-backs that ${local.watched.sync} could not do in all its attempts. Their alerts keep the old status in GTI.

        Look at the log of ${local.watched.sync} for the reason, then publish what is still wanted to the status topic again. `gcloud pubsub subscriptions pull ${google_pubsub_subscription.dead_letters.name} --project=${var.project_id} --limit=10` shows them; with `--auto-ack` they are taken off. The incident closes when none is left.
      EOT
    }
    errors = {
      title    = "error budget low"
      severity = "WARNING"
      query = join(" or ", [
        "sum(increase(${local.series.errors}_sum{${local.here}}[1h])) > ${local.live_errors - local.errors_left - 0.5}",
        "sum(increase(${local.series.runs}{${local.here},stop_reason=\"error_budget\"}[1h])) > 0.5",
      ])
      see  = "docs/troubleshooting.md#quota"
      text = <<-EOT
        Within an hour the runs of this feed had ${local.live_errors - local.errors_left} answers of 400 and above, or one stopped because the ${local.live_errors} of the hour are used up. GTI locks a user out after ${var.gti.max_errors_per_hour} (`MAX_ERRORS_PER_HOUR`), so runs stop at half of them, and sweeps and backfills at 35 %.

        The cause is in the `error` of the last runs. `errors` of `GET /status` has the whole count of the key, with write-backs and other feeds.
      EOT
    }
    requests = {
      title    = "requests near the day's limit"
      severity = "WARNING"
      query = join(" or ", [
        "sum(increase(${local.series.requests}_sum{${local.here}}[24h])) > ${floor(local.requests_per_day * var.monitoring.requests_share)}",
        "sum(increase(${local.series.runs}{${local.here},stop_reason=\"request_limit\"}[1h])) > 0.5",
      ])
      see  = "docs/troubleshooting.md#quota"
      text = <<-EOT
        Within 24 hours the runs of this feed sent more than ${floor(local.requests_per_day * var.monitoring.requests_share)} of ${local.requests_per_day} requests to GTI (`MAX_REQUESTS_PER_DAY`), or one stopped because they, or GTI's own quota, are used up.

        Runs stop at the limit and go on when the day has passed; nothing is lost as long as one succeeds within `MAX_LOOKBACK`. `requests` of `GET /status` has the whole count of the key, with write-backs and other feeds.
      EOT
    }
    key = {
      title    = "API key missing or refused"
      severity = "CRITICAL"
      query    = "sum(increase(${local.series.key_problems}{${local.here}}[${local.recent_minutes}m])) > 0.5"
      see      = "docs/troubleshooting.md#key"
      text     = <<-EOT
        Runs or write-backs have no API key (`key_missing`: the secret has no version, as after the first apply) or GTI refuses it (`key_refused`).

        Store a valid key as a new version of the secret. The next run takes it; nothing has to be deployed.
      EOT
    }
  }
}

resource "google_monitoring_alert_policy" "no_success" {
  count = var.monitoring.enabled ? 1 : 0

  project      = var.project_id
  display_name = "${local.name}: no successful run"
  combiner     = "OR"
  severity     = "CRITICAL"

  conditions {
    display_name = "No run ended ok or partial for ${local.success_minutes} minutes"

    dynamic "condition_absent" {
      for_each = local.success_minutes <= local.absence_minutes_max ? [local.success_minutes] : []
      content {
        filter = join(" AND ", [
          "metric.type=\"logging.googleapis.com/user/${google_logging_metric.counter["runs"].name}\"",
          "resource.type=\"cloud_run_revision\"",
          "resource.labels.project_id=\"${var.project_id}\"",
          "metric.labels.outcome=one_of(\"ok\", \"partial\")",
        ])
        duration = "${condition_absent.value * 60}s"

        # One series out of all: each deployment begins new ones, and the old
        # ones end.
        aggregations {
          alignment_period     = "60s"
          per_series_aligner   = "ALIGN_SUM"
          cross_series_reducer = "REDUCE_SUM"
        }
      }
    }

    # What no absence condition can say, because the runs are too far apart: a
    # success in the week before the window, and none in it.
    dynamic "condition_prometheus_query_language" {
      for_each = local.success_minutes > local.absence_minutes_max ? [local.success_minutes] : []
      content {
        query = join(" unless ", [
          for minutes in [condition_prometheus_query_language.value + 7 * 1440, condition_prometheus_query_language.value] :
          "(sum(increase(${local.series.runs}{${local.here},outcome=~\"ok|partial\"}[${minutes}m])) > 0)"
        ])
        duration                  = "0s"
        evaluation_interval       = "300s"
        disable_metric_validation = true
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-EOT
      No run ended `ok` or `partial` for ${local.success_minutes} minutes: every run fails or is skipped, or none is made. Alerts wait in GTI, and what its look-back (`MAX_LOOKBACK`) no longer reaches becomes a gap.

      With run lines in the log, look at the `error` of the last ones. Without: is the scheduler's job enabled, and may it call the function?

      This policy can't fire before the first success, nor, after a change of the policy, before the next one: an absence is only seen of what was there.

      See docs/troubleshooting.md#position.
    EOT
  }

  notification_channels = var.monitoring.notification_channels
  user_labels           = local.labels

  # Monitoring knows a log-based metric only some time after it was made (up to
  # ten minutes, mostly less than one) and refuses the policy until then. The
  # functions take minutes to build: whatever comes after them is late enough.
  # Where they are built already, another apply has to do (README).
  depends_on = [google_cloudfunctions2_function.ingest, google_cloudfunctions2_function.sync]

  lifecycle {
    precondition {
      condition     = var.log_level != "error"
      error_message = "log_level: must be debug, info or warn while monitoring.enabled is true, because the line of a write-back that failed is of level warn."
    }
  }
}

resource "google_monitoring_alert_policy" "this" {
  for_each = { for k, p in local.policies : k => p if var.monitoring.enabled }

  project      = var.project_id
  display_name = "${local.name}: ${each.value.title}"
  combiner     = "OR"
  severity     = each.value.severity

  conditions {
    display_name = each.value.title

    condition_prometheus_query_language {
      query                     = each.value.query
      duration                  = "0s"
      evaluation_interval       = "60s"
      disable_metric_validation = true
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.text}\nSee ${each.value.see}."
  }

  notification_channels = var.monitoring.notification_channels
  user_labels           = local.labels

  depends_on = [google_project_service.this]
}
