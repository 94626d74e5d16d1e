//! The smallest application of Rails that has a database.

use std::os::unix::fs::PermissionsExt;

use crate::Place;

const FILES: [(&str, &str); 5] = [
    ("shop/Gemfile", "gem 'rails'\ngem 'sqlite3'\n"),
    (
        "shop/bin/rails",
        "#!/usr/bin/env ruby\nAPP_PATH = File.expand_path('../config/application', __dir__)\nrequire 'rails/commands'\n",
    ),
    (
        "shop/config/application.rb",
        "require 'rails'\nrequire 'active_record/railtie'\n\
         class Shop < Rails::Application\n  config.eager_load = false\n  config.secret_key_base = 'x'\nend\n",
    ),
    ("shop/config/environment.rb", "require_relative 'application'\nRails.application.initialize!\n"),
    ("shop/Rakefile", "require_relative 'config/application'\nRails.application.load_tasks\n"),
];

/// Makes one in `shop`, with this `database.yml`.
pub(crate) fn application(place: &Place, databases: &str) {
    place.write_all(&FILES);
    place.write_all(&[("shop/config/database.yml", databases)]);
    let program = place.path("shop/bin/rails");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
}
