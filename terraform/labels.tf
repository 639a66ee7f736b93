locals {
  # The program's own, from the one line of Go that says it.
  version = regex("(?m)^const Version = \"([^\"]+)\"$", file("${local.root}/internal/observe/version.go"))[0]

  # A label's value takes no dot.
  labels = merge({ app = "dtm-relay", feed = var.feed, version = replace(local.version, ".", "-") }, var.labels)
}
