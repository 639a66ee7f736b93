# What the patterns of patterns.tf take, and what they don't.

mock_provider "google" {}
mock_provider "archive" {}

variables {
  project_id = "my-project"
}

run "regions" {
  command = plan

  assert {
    condition = alltrue([for v in [
      "africa-south1", "asia-east2", "asia-northeast3", "asia-south1", "asia-southeast2", "australia-southeast1", "europe-central2",
      "europe-north1", "europe-southwest1", "europe-west12", "me-central2", "me-west1", "northamerica-northeast2", "northamerica-south1",
      "southamerica-east1", "southamerica-west1", "us-central1", "us-east19", "us-south1", "us-west4",
    ] : can(regex(local.region_pattern, v))])
    error_message = "Each area of Google's regions is taken."
  }
  assert {
    condition = !anytrue([for v in [
      "europe-west99", "europe-west0", "europe-central1", "foo-bar1", "asia-west1", "us-central", "us-central1-a", "nam5", "",
    ] : can(regex(local.region_pattern, v))])
    error_message = "What is no region is refused."
  }
}

run "cron" {
  command = plan

  assert {
    condition = alltrue([for v in [
      "* * * * *", "*/5 * * * *", "0 6 * * 1-5", "00 06 01 01 0", "59 23 31 12 7", "0-59/10,5 */2 1,15 JAN-MAR,12 mon-fri", "0 0,10,20 * * SUN",
    ] : can(regex(local.cron_pattern, v))])
    error_message = "Numbers, names, ranges, steps and lists are taken."
  }
  assert {
    condition = !anytrue([for v in [
      "99 99 99 99 99", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "* * * FOO *", "* * * * JAN",
      "every five minutes if possible", ",,, /// --- *** 1-", "1- * * * *", "5/10 * * * *", "*/0 * * * *", "*  * * * *", "* * * *", "* * * * * *", "",
    ] : can(regex(local.cron_pattern, v))])
    error_message = "What is out of range or no field is refused."
  }
}

run "time_zones" {
  command = plan

  assert {
    condition = alltrue([for v in [
      "Etc/UTC", "Etc/GMT+10", "Europe/Zurich", "America/Argentina/Buenos_Aires", "America/Port-au-Prince", "US/Eastern", "EST5EDT", "GMT0", "GMT+0", "NZ-CHAT", "Japan",
    ] : can(regex(local.time_zone_pattern, v))])
    error_message = "Names of the tz database are taken, with an area and without one."
  }
  assert {
    condition     = !anytrue([for v in ["Mars/Olympus", "Europe/New Zurich", "Europe/", "/Europe", "+1", ""] : can(regex(local.time_zone_pattern, v))])
    error_message = "Other areas are refused."
  }
}

run "durations" {
  command = plan

  assert {
    condition     = alltrue([for v in ["90s", "10ms", "0s", "1h30m1s", "1.5h", "0.00001h", "0.0001m", "0.001s"] : can(regex(local.duration_pattern, v))])
    error_message = "Go durations in whole milliseconds are taken."
  }
  assert {
    condition     = !anytrue([for v in ["1.5ms", "0.0001s", "0.00001m", "0.000001h", "1us", "10", "30d", "-1s", ".5s", "5.s", ""] : can(regex(local.duration_pattern, v))])
    error_message = "What internal/config finds finer than a millisecond, or no duration, is refused."
  }
}

run "hosts" {
  command = plan

  assert {
    condition     = alltrue([for v in ["www.virustotal.com", "h", "a-b.c", "127.0.0.1", "[::1]:8080", "h:1", "h:65535"] : can(regex("^${local.authority}$", v))])
    error_message = "Hosts are taken, with a port and without one."
  }
  assert {
    condition     = !anytrue([for v in ["a..b", "-a", "a-", "a_b", "h h", "user@h", "user:password@h", "h:", "h:0", "h:65536", ":80", ""] : can(regex("^${local.authority}$", v))])
    error_message = "Users, bad names and bad ports are refused."
  }
}

run "subscription_filters" {
  command = plan

  assert {
    condition = alltrue([for v in [
      "attributes.priority = \"P1\"", "attributes.origin!=\"writeback\"", "attributes:backfill", "NOT attributes:backfill", "-attributes:backfill",
      "hasPrefix(attributes.reason, \"refused\")", "attributes.\"a/b\" = \"x\"", "attributes.a = \"a \\\" ( AND\"",
      "attributes.event = \"status_changed\" AND attributes.origin = \"gti\"", "attributes:a AND (attributes.b = \"y\" OR NOT hasPrefix(attributes.c, \"z\"))",
    ] : can(regex(local.filter_pattern, v))])
    error_message = "What Pub/Sub documents is taken."
  }
  assert {
    condition = !anytrue([for v in [
      "attributes.a == \"x\"", "attributes.a = x", "attributes.a = 'x'", "attributes.a = \"x", "attributes.a > \"x\"", "attributes.a.b = \"x\"", "priority = \"P1\"", "attributes",
      "attributes:a attributes:b", "attributes:a AND", "attributes:a and attributes:b", "NOTattributes:a", "hasPrefix(attributes.a \"x\")", "()", " ",
    ] : can(regex(local.filter_pattern, v))])
    error_message = "What is in no filter is refused."
  }
}
