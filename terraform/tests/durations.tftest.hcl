# What the pattern of durations takes, and what it doesn't.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
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
