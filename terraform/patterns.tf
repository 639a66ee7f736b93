# Patterns of the validations in variables.tf that are too long to stand there.
# Each takes the whole value.

locals {
  # The areas that Google has regions in, so that a new region in one of them is
  # taken without a change here (https://cloud.google.com/about/locations). There
  # never was a europe-central1.
  region_pattern = join("|", [
    "^(africa-south|asia-(east|northeast|south|southeast)|australia-southeast|europe-(north|southwest|west)|me-(central|west)|northamerica-(northeast|south)|southamerica-(east|west)|us-(central|east|south|west))([1-9]|1[0-9])$",
    "^europe-central([2-9]|1[0-9])$",
  ])

  # https://cloud.google.com/scheduler/docs/configuring/cron-job-schedules
  cron_values = [
    "[0-5]?[0-9]",
    "[01]?[0-9]|2[0-3]",
    "0?[1-9]|[12][0-9]|3[01]",
    "0?[1-9]|1[0-2]|(?i:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)",
    "[0-7]|(?i:SUN|MON|TUE|WED|THU|FRI|SAT)",
  ]
  cron_items   = [for value in local.cron_values : format("(%[1]s|(\\*|(%[1]s)-(%[1]s))(/[1-9][0-9]?)?)", value)]
  cron_pattern = "^${join(" ", [for item in local.cron_items : "${item}(,${item})*"])}$"

  # The areas of the tz database, and names without one like EST5EDT or Japan.
  time_zone_pattern = join("|", [
    "^(Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Brazil|Canada|Chile|Etc|Europe|Indian|Mexico|Pacific|US)(/[A-Za-z0-9_+-]+){1,2}$",
    "^[A-Za-z][A-Za-z0-9+-]*$",
  ])

  # Go durations in whole milliseconds, as internal/config wants them: a fraction
  # has so many digits at most.
  duration_pattern = "^([0-9]+(\\.[0-9]{1,5})?h|[0-9]+(\\.[0-9]{1,4})?m|[0-9]+(\\.[0-9]{1,3})?s|[0-9]+ms)+$"

  # A host, and a port from 1 to 65535 if there is one; no user.
  host_label = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
  port       = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
  authority  = "(${local.host_label}(\\.${local.host_label})*|\\[[0-9A-Fa-f:.]+\\])(:(${local.port}))?"

  # https://cloud.google.com/pubsub/docs/subscription-message-filter
  # A pattern can't count parentheses: the validation does.
  quoted_text       = "\"([^\"\\\\]|\\\\.)*\""
  attribute_key     = "([A-Za-z0-9_-]+|${local.quoted_text})"
  filter_comparison = "(attributes\\s*:\\s*${local.attribute_key}|attributes\\.${local.attribute_key}\\s*!?=\\s*${local.quoted_text}|hasPrefix\\s*\\(\\s*attributes\\.${local.attribute_key}\\s*,\\s*${local.quoted_text}\\s*\\))"
  filter_term       = "(\\s|\\(|-|NOT\\b)*${local.filter_comparison}[\\s)]*"
  filter_pattern    = "^${local.filter_term}(\\b(AND|OR)\\b${local.filter_term})*$"
}
