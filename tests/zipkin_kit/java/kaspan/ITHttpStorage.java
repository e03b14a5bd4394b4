package kaspan;

import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.TestInfo;
import zipkin2.storage.StorageComponent;

/** Each test class of Zipkin's kit, with a server of its own for each test: there is nothing to clear. */
class ITHttpStorage {
  @Nested class ITTraces extends zipkin2.storage.ITTraces<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITSpanStore extends zipkin2.storage.ITSpanStore<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITSpanStoreHeavy extends zipkin2.storage.ITSpanStoreHeavy<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITSearchEnabledFalse extends zipkin2.storage.ITSearchEnabledFalse<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITStrictTraceIdFalse extends zipkin2.storage.ITStrictTraceIdFalse<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITAutocompleteTags extends zipkin2.storage.ITAutocompleteTags<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITServiceAndSpanNames extends zipkin2.storage.ITServiceAndSpanNames<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITDependencies extends zipkin2.storage.ITDependencies<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }

  @Nested class ITDependenciesHeavy extends zipkin2.storage.ITDependenciesHeavy<HttpStorage> {
    @Override protected boolean initializeStoragePerTest() {
      return true;
    }

    @Override protected StorageComponent.Builder newStorageBuilder(TestInfo testInfo) {
      return new HttpStorage.Builder();
    }

    @Override protected void clear() {
    }
  }
}
