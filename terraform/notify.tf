# Alerts to people: var.notify. The subscription itself makes the receiver's JSON of a
# message, so nothing of ours runs for it.

locals {
  # What stands in a plan for all to see. url and routing_key don't.
  notify = { for name in nonsensitive(keys(var.notify)) : name => {
    to     = nonsensitive(var.notify[name].to)
    filter = nonsensitive(var.notify[name].filter)
  } }

  pagerduty_url = "https://events.pagerduty.com/v2/enqueue"
}

resource "google_pubsub_subscription" "notify" {
  for_each = local.notify

  project = var.project_id
  name    = "${google_pubsub_topic.alerts.name}-notify-${each.key}"
  topic   = google_pubsub_topic.alerts.id
  filter  = each.value.filter
  labels  = local.labels

  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }

  retry_policy {
    minimum_backoff = "10s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.alert_dead_letters.id
    max_delivery_attempts = 100
  }

  message_transforms {
    javascript_udf {
      function_name = "transform"
      code = join("\n", concat(
        each.value.to == "pagerduty" ? ["const ROUTING_KEY = ${jsonencode(var.notify[each.key].routing_key)};"] : [],
        [file("${path.module}/notify/common.js"), file("${path.module}/notify/${each.value.to}.js")],
      ))
    }
  }

  push_config {
    push_endpoint = coalesce(var.notify[each.key].url, local.pagerduty_url)

    # The metadata are headers: Content-Type, which the function sets, is one of them.
    # https://cloud.google.com/pubsub/docs/payload-unwrapping
    no_wrapper {
      write_metadata = true
    }
  }

  depends_on = [time_sleep.delivery]
}
