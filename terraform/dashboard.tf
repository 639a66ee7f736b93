# One page that says how the feed is. A grid has no positions: the API leaves out
# what is 0, and the provider would find that changed in every plan.

locals {
  # Over windows that hold at least one run.
  chart_window = "${max(10, 2 * local.interval_minutes)}m"

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
      series = {
        lag = join(" / ", [for part in ["sum", "count"] : "sum(increase(${local.series.lag}_${part}{${local.here}}[${local.chart_window}]))"])
      }
    },
    {
      title = "Requests to GTI in 24 hours, against the quota"
      axis  = "requests"
      plot  = "LINE"
      bounds = {
        "MAX_REQUESTS_PER_DAY" = local.requests_per_day
        "alert policy"         = floor(local.requests_per_day * var.monitoring.requests_share)
      }
      series = { requests = "sum(increase(${local.series.requests}_sum{${local.here}}[24h]))" }
    },
    {
      title  = "Error answers of GTI in an hour, against the budget"
      axis   = "answers of 400 and above"
      plot   = "LINE"
      bounds = { "runs stop" = local.live_errors, "alert policy" = local.live_errors - local.errors_left }
      series = { errors = "sum(increase(${local.series.errors}_sum{${local.here}}[1h]))" }
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
        "rejects"      = "max(${local.undelivered.rejects})"
        "dead letters" = "max(${local.undelivered.dead_letters})"
      }
    },
    {
      title  = "Rejected alerts, disabled monitors, gaps, lines without a key and failed starts, in the last hour"
      axis   = "number"
      plot   = "LINE"
      bounds = {}
      series = {
        "rejected alerts" = "sum(increase(${local.series.rejected}_sum{${local.here}}[1h]))"
        "monitors"        = "sum(increase(${local.series.monitors}{${local.here}}[1h]))"
        "gaps"            = "sum(increase(${local.series.gaps}{${local.here}}[1h]))"
        "without a key"   = "sum(increase(${local.series.key_problems}{${local.here}}[1h]))"
        "failed starts"   = "sum(increase(${local.series.start_failures}{${local.here}}[1h]))"
      }
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
        filter        = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for s in values(local.watched) : "\"${s}\""])}) AND severity>=WARNING"
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

  depends_on = [google_project_service.this]
}
