plugin "terraform" {
  enabled = true
  preset  = "all"
}

# The files are named by what is in them; there is no main.tf.
rule "terraform_standard_module_structure" {
  enabled = false
}
