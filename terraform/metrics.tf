# Log-based metrics. A run writes one log line, the run report: most of what the
# alert policies and the dashboard know comes from there.
#
# A counter counts lines. A number in a line needs a distribution, of which
# PromQL reads the sum and the count. Where each line has a level (lag, what the key
# has used) and not a share, only the mean, sum by count, means something.
#
# internal/app compares the names with what the code writes.

locals {
  # The functions' names, which are those of their Cloud Run services. Not read
  # from the functions, so that the metrics are made before them (alerts.tf).
  watched = {
    ingest = "${local.name}-ingest"
    sync   = "${local.name}-sync"
  }

  lines_of = {
    for k, service in local.watched : k => "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${service}\""
  }

  lines_of_both = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for s in values(local.watched) : "\"${s}\""])})"

  # Where Cloud Run writes what became of an instance.
  system_log = "logName=\"projects/${var.project_id}/logs/run.googleapis.com%2Fvarlog%2Fsystem\""

  # A dry run publishes nothing and moves no position: it is no sign of life.
  run_lines = "${local.lines_of.ingest} AND jsonPayload.event=\"run\" AND NOT jsonPayload.dry_run=true"

  counters = {
    runs = {
      description = "Runs, by how they ended."
      filter      = local.run_lines
      labels      = ["outcome", "stop_reason"]
    }
    gaps = {
      description = "Ranges that GTI refused to list for their age."
      filter      = "${local.lines_of.ingest} AND jsonPayload.event=\"gap\" AND severity=ERROR"
      labels      = []
    }
    suspected_gaps = {
      description = "Ranges for which GTI answered, but perhaps not with everything."
      filter      = "${local.lines_of.ingest} AND jsonPayload.event=\"gap\" AND severity=WARNING"
      labels      = []
    }
    late_sweeps = {
      description = "Runs at whose end no sweep had been complete for long."
      filter      = "${local.lines_of.ingest} AND jsonPayload.event=\"sweep_late\" AND severity=WARNING"
      labels      = []
    }
    failed_backfills = {
      description = "Backfills that GTI refused, and that are not tried again."
      filter      = "${local.lines_of.ingest} AND jsonPayload.event=\"backfill\" AND jsonPayload.state=\"failed\" AND severity=ERROR"
      labels      = []
    }
    monitors = {
      description = "Monitors of the feed that GTI has disabled, or that are gone (one that was never seen enabled, and that the filter does not name, is not counted)."
      filter      = "${local.lines_of.ingest} AND jsonPayload.event=\"monitor_disabled\" AND severity=ERROR"
      labels      = []
    }
    key_problems = {
      description = "Runs and write-backs that had no API key, or whose key GTI refused."
      filter = join(" OR ", [
        "(${local.lines_of.ingest} AND jsonPayload.event=\"run\" AND jsonPayload.stop_reason=(\"key_missing\" OR \"key_refused\"))",
        "(${local.lines_of.sync} AND jsonPayload.event=\"writeback\" AND jsonPayload.reason=(\"key_missing\" OR \"key_refused\"))",
      ])
      labels = []
    }
    # internal/app, fail. A configuration that is only unusual is a WARNING. The other
    # lines are Cloud Run's own, of an instance and of a revision:
    # https://cloud.google.com/run/docs/troubleshooting
    start_failures = {
      description = "Requests to a function that could not start, instances and revisions that did not."
      filter = join(" AND ", [local.lines_of_both, "(${join(" OR ", [
        "(jsonPayload.event=(\"config\" OR \"start\") AND severity=ERROR)",
        "(${local.system_log} AND textPayload:\"STARTUP\" AND textPayload:\"probe failed\")",
        "(logName=\"projects/${var.project_id}/logs/cloudaudit.googleapis.com%2Fsystem_event\" AND protoPayload.status.message:\"Ready condition status changed to False for Revision\")",
      ])})"])
      labels = []
    }
    crashes = {
      description = "Panics, and instances that ended by themselves or for want of memory."
      filter = join(" AND ", [local.lines_of_both, "(${join(" OR ", [
        "(jsonPayload.event=\"panic\" AND severity=ERROR)",
        "(${local.system_log} AND textPayload=~\"^(Memory limit of .* exceeded|Container called exit[(][1-9]|Container terminated on signal|Uncaught signal)\")",
      ])})"])
      labels = []
    }
    writebacks = {
      description = "Write-backs to GTI that were rejected, or will be tried again."
      filter      = "${local.lines_of.sync} AND jsonPayload.event=\"writeback\" AND jsonPayload.outcome=(\"rejected\" OR \"transient\")"
      labels      = ["outcome"]
    }
  }

  # field of the run report, and which lines have it
  distributions = {
    created        = { field = "created", unit = "1", description = "Alerts published as created, of a run." }
    updated        = { field = "updated", unit = "1", description = "Alerts published as updated, of a run." }
    status_changed = { field = "status_changed", unit = "1", description = "Alerts published as status_changed, of a run." }
    rejected       = { field = "rejected", unit = "1", description = "Alerts that a run sent to the rejects topic." }
    # A run that sent nothing may not know these.
    requests_24h = { field = "requests_24h", unit = "1", only_if = "requests", description = "Requests to GTI in 24 hours with the feed's key, whoever sent them, at a run's end." }
    errors_1h    = { field = "errors_1h", unit = "1", only_if = "requests", description = "Answers of GTI of 400 and above in an hour to the feed's key, whoever got them, at a run's end." }
    duration     = { field = "duration_ms", unit = "ms", description = "How long a run took." }
    # 0 stands for "not known" in these two: a run that found no position, and
    # one without an audit.
    lag  = { field = "lag_seconds", unit = "s", only_if = "lag_seconds", description = "How old the position was at a run's end." }
    late = { field = "late_max_seconds", unit = "s", only_if = "late_max_seconds", description = "How late alerts came into GTI's index, at most, as the audit found." }
  }

  distribution_filters = { for k, d in local.distributions :
    k => join(" AND ", concat([local.run_lines], [for field in try([d.only_if], []) : "jsonPayload.${field}>0"]))
  }
}

resource "google_logging_metric" "counter" {
  for_each = { for k, m in local.counters : k => m if var.monitoring.enabled }

  project          = var.project_id
  name             = "${local.name}-${replace(each.key, "_", "-")}"
  description      = each.value.description
  filter           = each.value.filter
  label_extractors = { for label in each.value.labels : label => "EXTRACT(jsonPayload.${label})" }

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    dynamic "labels" {
      for_each = each.value.labels
      content {
        key = labels.value
      }
    }
  }

  depends_on = [time_sleep.services]
}

resource "google_logging_metric" "distribution" {
  for_each = { for k, m in local.distributions : k => m if var.monitoring.enabled }

  project         = var.project_id
  name            = "${local.name}-${replace(each.key, "_", "-")}"
  description     = each.value.description
  filter          = local.distribution_filters[each.key]
  value_extractor = "EXTRACT(jsonPayload.${each.value.field})"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = each.value.unit
  }

  # 1 to 5.6 million (in seconds two months, in milliseconds an hour and a half)
  # in steps of a quarter. Only percentiles read the buckets.
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 70
      growth_factor      = 1.25
      scale              = 1
    }
  }

  depends_on = [time_sleep.services]
}
