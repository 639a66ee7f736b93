# One page that says how the feed is. A grid has no positions: the API leaves out
# what is 0, and the provider would find that changed in every plan.

locals {
  # Over windows that hold at least one run.
  chart_window = "${max(10, 2 * local.interval_minutes)}m"

  # All that the module makes.
  of_subscriptions = "${local.of_pubsub},subscription_id=~\"${join("|", [
    for name in concat([google_pubsub_subscription.status_push.name], local.consumers, values(local.kept)) : replace(replace(name, ".", "[.]"), "+", "[+]")
  ])}\""
  of_database = "monitored_resource=\"firestore.googleapis.com/Database\",project_id=\"${var.project_id}\",database_id=\"${local.database}\""

  # Each: title, unit or meaning of the axis, lines to stay below, and the series
  # by their legend.
  charts = [
    {
      title  = "Published in the last hour, by event"
      axis   = "alerts"
      plot   = "STACKED_AREA"
      bounds = {}
      series = {
        for event in ["created", "updated", "status_changed"] :
        event => "sum(increase(${local.series[event]}_sum{${local.here}}[1h]))"
      }
    },
    {
      title  = "Lag"
      axis   = "seconds before now"
      plot   = "LINE"
      bounds = { "alert policy" = var.monitoring.lag_minutes * 60 }
      series = { lag = local.mean.lag }
    },
    {
      title = "Requests to GTI in 24 hours with the key, against the quota"
      axis  = "requests"
      plot  = "LINE"
      bounds = {
        "MAX_REQUESTS_PER_DAY" = local.requests_per_day
        "alert policy"         = local.requests_bound
      }
      series = { requests = local.mean.requests_24h }
    },
    {
      title  = "Error answers of GTI in an hour to the key, against the budget"
      axis   = "answers of 400 and above"
      plot   = "LINE"
      bounds = { "runs stop" = local.live_errors, "alert policy" = local.errors_bound }
      series = { errors = local.mean.errors_1h }
    },
    {
      title  = "Runs in the last hour, by outcome and reason"
      axis   = "runs"
      plot   = "STACKED_AREA"
      bounds = {}
      series = { "$${labels.outcome}: $${labels.stop_reason}" = "sum by (outcome, stop_reason) (increase(${local.series.runs}{${local.here}}[1h]))" }
    },
    {
      title  = "Run time"
      axis   = "milliseconds"
      plot   = "LINE"
      bounds = {}
      series = {
        mean              = join(" / ", [for part in ["sum", "count"] : "sum(increase(${local.series.duration}_${part}{${local.here}}[${local.chart_window}]))"])
        "95th percentile" = "histogram_quantile(0.95, sum by (le) (increase(${local.series.duration}_bucket{${local.here}}[${local.chart_window}])))"
      }
    },
    {
      title  = "Memory, 99th percentile of the instances"
      axis   = "part of the limit"
      plot   = "LINE"
      bounds = {}
      series = {
        for service in values(local.watched) :
        service => "histogram_quantile(0.99, sum by (le) (increase(run_googleapis_com:container_memory_utilizations_bucket{${local.here},service_name=\"${service}\"}[10m])))"
      }
    },
    {
      title  = "Rejects and dead letters that wait to be looked at"
      axis   = "messages"
      plot   = "LINE"
      bounds = {}
      series = {
        "rejects"                     = "max(${local.undelivered.rejects})"
        "dead letters of write-backs" = "max(${local.undelivered.dead_letters})"
        "dead letters of alerts"      = "max(${local.undelivered.alert_dead_letters})"
      }
    },
    {
      title  = "Messages that wait, by subscription"
      axis   = "messages"
      plot   = "LINE"
      bounds = {}
      series = { "$${labels.subscription_id}" = "max by (subscription_id) (pubsub_googleapis_com:subscription_num_undelivered_messages{${local.of_subscriptions}})" }
    },
    {
      title  = "Age of the oldest message, by subscription"
      axis   = "seconds"
      plot   = "LINE"
      bounds = { "alert policy" = var.monitoring.age_minutes * 60 }
      series = { "$${labels.subscription_id}" = "max by (subscription_id) (${local.oldest}{${local.of_subscriptions}})" }
    },
    {
      title  = "Requests to SyncStatus in 10 minutes, by answer"
      axis   = "requests"
      plot   = "STACKED_AREA"
      bounds = {}
      series = { "$${labels.response_code_class}" = "sum by (response_code_class) (increase(run_googleapis_com:request_count{${local.of_sync}}[10m]))" }
    },
    {
      title  = "How long SyncStatus takes to answer"
      axis   = "milliseconds"
      plot   = "LINE"
      bounds = {}
      series = {
        for name, quantile in { median = "0.5", "95th percentile" = "0.95" } :
        name => "histogram_quantile(${quantile}, sum by (le) (increase(run_googleapis_com:request_latencies_bucket{${local.of_sync}}[10m])))"
      }
    },
    {
      title  = "Instances of the functions"
      axis   = "instances"
      plot   = "STACKED_AREA"
      bounds = {}
      series = { "$${labels.service_name}: $${labels.state}" = "sum by (service_name, state) (run_googleapis_com:container_instance_count{${local.of_both}})" }
    },
    {
      title  = "Operations of the database in 10 minutes"
      axis   = "documents"
      plot   = "STACKED_AREA"
      bounds = {}
      series = {
        for kind in ["read", "write", "delete"] :
        kind => "sum(increase(firestore_googleapis_com:document_${kind}_ops_count{${local.of_database}}[10m]))"
      }
    },
    {
      title  = "What is logged of trouble, in the last hour"
      axis   = "lines"
      plot   = "LINE"
      bounds = {}
      series = merge(
        { "rejected alerts" = "sum(increase(${local.series.rejected}_sum{${local.here}}[1h]))" },
        {
          for name, k in {
            "disabled monitors" = "monitors"
            "gaps"              = "gaps"
            "suspected gaps"    = "suspected_gaps"
            "late sweeps"       = "late_sweeps"
            "failed backfills"  = "failed_backfills"
            "without a key"     = "key_problems"
            "failed starts"     = "start_failures"
            "crashes"           = "crashes"
          } : name => "sum(increase(${local.series[k]}{${local.here}}[1h]))"
        },
      )
    },
    {
      title  = "Write-backs not done in the last hour, by outcome"
      axis   = "write-backs"
      plot   = "STACKED_AREA"
      bounds = {}
      series = { "$${labels.outcome}" = "sum by (outcome) (increase(${local.series.writebacks}{${local.here}}[1h]))" }
    },
    {
      title  = "How late alerts came into GTI's index, by the day's audit"
      axis   = "seconds, at most"
      plot   = "LINE"
      bounds = {}
      series = { late = join(" / ", [for part in ["sum", "count"] : "sum(increase(${local.series.late}_${part}{${local.here}}[24h]))"]) }
    },
  ]

  widgets = concat(
    [for chart in local.charts : {
      title = chart.title
      xyChart = merge(
        {
          dataSets = [for legend, query in chart.series : {
            plotType        = chart.plot
            legendTemplate  = legend
            timeSeriesQuery = { prometheusQuery = query }
          }]
          yAxis = { label = chart.axis, scale = "LINEAR" }
        },
        length(chart.bounds) == 0 ? {} : {
          thresholds = [for label, value in chart.bounds : { label = label, value = value }]
        },
      )
    }],
    [{
      title = "Warnings and errors"
      logsPanel = {
        filter        = "${local.lines_of_both} AND severity>=WARNING"
        resourceNames = ["projects/${var.project_id}"]
      }
    }],
  )
}

resource "google_monitoring_dashboard" "this" {
  count = var.monitoring.enabled ? 1 : 0

  project = var.project_id
  dashboard_json = jsonencode({
    displayName = local.name
    gridLayout  = { columns = "2", widgets = local.widgets }
  })

  depends_on = [time_sleep.services]
}
