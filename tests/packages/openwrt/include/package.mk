# See rules.mk. Flags of the compiler come by the environment, tools on the command line, CROSS ends with a "-".
PKG_BUILD_DIR := $(BUILD_DIR)/$(PKG_NAME)-$(PKG_VERSION)
PKG_INSTALL_DIR := $(PKG_BUILD_DIR)/ipkg-install
MAKE_VARS = CFLAGS="$(TARGET_CFLAGS) $(TARGET_CPPFLAGS)" LDFLAGS="$(TARGET_LDFLAGS)"
MAKE_FLAGS = CC=gcc AR=ar RANLIB=ranlib CROSS="$(TARGET_CROSS)" ARCH="$(ARCH)"

define Download
$(eval $(Download/$(1)))
download: download-$(1)
download-$(1):
	echo '$(HASH)  $(DL_DIR)/$(FILE)' | sha256sum -c --quiet -
endef

define BuildPackage
all: download
	$$(Build/Configure)
	$$(MAKE_VARS) $$(MAKE) -C $$(PKG_BUILD_DIR) $$(MAKE_FLAGS)
	$$(if $$(PKG_INSTALL),$$(MAKE_VARS) $$(MAKE) -C $$(PKG_BUILD_DIR) $$(MAKE_FLAGS) DESTDIR="$$(PKG_INSTALL_DIR)" install)
	$$(call Package/$(1)/install,$$(DEST))
endef
.DEFAULT_GOAL := all
