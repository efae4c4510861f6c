from vae_lightning.experiment.cli import main

raise SystemExit(main())
