"""What can be seen of a running platform: metrics of many processes shown as one."""
