from vae_lightning.experiment.main import main

raise SystemExit(main())
