"""Where jobs run: a cluster on this machine (``local``), Ray on VMs (``aws.yaml``) and on Kubernetes (``kuberay``)."""
