from vae_lightning.commands.main import main

raise SystemExit(main())
